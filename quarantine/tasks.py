"""Scheduled work on what is kept."""

from __future__ import annotations

import logging

from celery import shared_task

from portal.tenants.database import get_schema
from portal.tenants.models import ServiceProvider
from portal.tenants.tasks import tenant_task
from quarantine import retention

log = logging.getLogger(__name__)


@shared_task(name="quarantine.tasks.expire_held")
def expire_held() -> None:
    """Every hour: one task a provider, so that one provider's backlog never delays another's."""
    for schema in ServiceProvider.objects.exclude(schema_name="public").values_list("schema_name", flat=True):
        expire_provider.delay(schema)


@tenant_task(name="quarantine.tasks.expire_provider")
def expire_provider() -> None:
    """Apply the rules of quarantine.retention to this provider's rows; running twice does nothing twice."""
    expired, dropped, forgotten = retention.expire_held(), retention.drop_outlived(), retention.forget_untaken()
    details = (get_schema(), expired, dropped, forgotten)
    log.info("retention_applied provider=%s expired=%d dropped=%d forgotten=%d", *details)


@shared_task(name="quarantine.tasks.forget_platforms")
def forget_platforms() -> None:
    """Every hour: what belongs to no provider, or to all."""
    forgotten = retention.forget_platforms()
    log.info("platform_forgotten %s", " ".join(f"{name}={number}" for name, number in forgotten.items()))
