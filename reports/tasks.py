"""Reports by Celery. Each task may run twice without harm: the rows are claimed, and a slot has one digest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

from celery import shared_task
from django.db import ProgrammingError
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.database import get_schema
from portal.tenants.models import ServiceProvider
from portal.tenants.tasks import tenant_task
from quarantine.faults import name_fault
from reports import digests, links, queries

logger = logging.getLogger(__name__)

MAX_CHAINS = 4  # workers on one provider's daily reports, so that a big provider leaves some for the others
LATER = 6  # Redis and Valkey: the daily ones wait for those that a person asked for (0 is first)
OVERDUE = timedelta(seconds=30)  # a report asked for whose task was lost


@shared_task
def dispatch_due_digests() -> None:
    """Every minute: find which providers have reports due, and start as many chains."""
    now = timezone.now()
    _in_each(queries.list_waiting(_list_schemas(), now=now, asked_before=now - OVERDUE), _dispatch)


def _list_schemas() -> list[str]:
    return list(ServiceProvider.objects.exclude(schema_name="public").values_list("schema_name", flat=True))


def _in_each(schemas: Iterable[str], act: Callable[[str], object]) -> None:
    """A provider whose tables are not there (half made, half migrated) or locked keeps no other's reports back."""
    for schema in schemas:
        try:
            with schema_context(schema), queries.limited_wait():
                act(schema)
        except (ProgrammingError, queries.LockedError) as error:
            logger.error("provider_skipped schema=%s error=%s", schema, name_fault(error))  # noqa: TRY400


def _dispatch(schema: str) -> None:
    due = queries.list_due(timezone.now())[: MAX_CHAINS * digests.BATCH].count()
    overdue = list(queries.list_requested(timezone.now() - OVERDUE).values_list("pk", flat=True)[:500])
    for _ in range(-(-due // digests.BATCH)):
        send_due_digests.apply_async((schema,), priority=LATER)
    if overdue:
        send_requested_digests.delay(schema, overdue)


@tenant_task()
def send_due_digests() -> None:
    """One batch of the provider's daily reports; as long as there are full ones, the next waits its turn."""
    if digests.send_due() == digests.BATCH:
        send_due_digests.apply_async((get_schema(),), priority=LATER)


@tenant_task()
def send_requested_digests(ids: list[int]) -> None:
    digests.send_requested(ids)


@shared_task
def expire_links() -> None:
    """Once an hour: remove the remembered browsers whose time is over, and the links that are long over."""
    _in_each(_list_schemas(), lambda _: links.expire_links())
