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
    """Expire this provider's held mail by its rules (quarantine.retention); running twice does nothing twice."""
    expired, dropped = retention.expire_held(), retention.drop_outlived()
    log.info("retention_applied provider=%s expired=%d dropped=%d", get_schema(), expired, dropped)
