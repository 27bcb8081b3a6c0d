"""Scheduled work on what is kept."""

from __future__ import annotations

import logging

from celery import shared_task
from django.db import Error

from portal.tenants.database import get_schema, is_outage
from portal.tenants.models import ServiceProvider
from portal.tenants.tasks import tenant_task
from quarantine import retention
from quarantine.faults import name_fault
from quarantine.platform.rounds import note_round

log = logging.getLogger(__name__)

EXPIRES_SECONDS = 6 * 3600


@shared_task(name="quarantine.tasks.expire_held")
def expire_held() -> None:
    """Every hour: one task a provider, so that one provider's backlog never delays another's. None where so much time
    seems to have gone by that the clock may be wrong; a task that could not be begun for hours is not done any more.
    """
    if not note_round():
        return
    for schema in ServiceProvider.objects.exclude(schema_name="public").values_list("schema_name", flat=True):
        expire_provider.apply_async(args=[schema], expires=EXPIRES_SECONDS)


@tenant_task(name="quarantine.tasks.expire_provider")
def expire_provider() -> None:
    """Apply the rules of quarantine.retention to this provider's rows; running twice does nothing twice."""
    schema = get_schema()
    for rule in (retention.expire_held, retention.drop_outlived, retention.forget_untaken):
        try:
            log.info("retention_applied provider=%s rule=%s rows=%d", schema, rule.__name__, rule())
        except Exception as error:  # one rule's fault must not keep the others from being applied
            if isinstance(error, Error) and is_outage(error.__cause__ or error):
                raise  # none could be: the worker says so once
            log.error("retention_failed provider=%s rule=%s error=%s", schema, rule.__name__, name_fault(error))


@shared_task(name="quarantine.tasks.forget_platforms")
def forget_platforms() -> None:
    """Every hour: what belongs to no provider, or to all. Of receipts there are many, and they are good for a day at
    most: these always go.
    """
    forgotten = retention.forget_platforms(only_receipts=not note_round())
    log.info("platform_forgotten %s", " ".join(f"{name}={number}" for name, number in forgotten.items()))
