"""Tables that somebody holds locked: a command that reads them says so, and does not wait for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import CommandError
from django.db import OperationalError, connection
from psycopg import errors

from portal.tenants.models import ServiceProvider

WAIT_SECONDS = 5
LOOK_AGAIN_SECONDS = 0.5  # a vacuum has such a lock for a moment
LOCKED = """
SELECT DISTINCT n.nspname FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
WHO = (
    "Somebody holds a table or a row locked that is needed for this. While it is asked for again, SELECT pid, state,"
    " query FROM pg_stat_activity WHERE pid IN (SELECT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity) says who."
)


@contextmanager
def short_wait() -> Iterator[None]:
    """Raise CommandError where a lock keeps a statement waiting for WAIT_SECONDS."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{WAIT_SECONDS}s'")
    try:
        yield
    except OperationalError as error:
        if isinstance(error.__cause__, errors.LockNotAvailable):
            raise CommandError(WHO) from error
        raise
    finally:
        if connection.is_usable():  # a transaction that has failed undoes it by itself
            with connection.cursor() as cursor:
                cursor.execute("RESET lock_timeout")


def list_locked() -> list[ServiceProvider]:
    """The providers with a table that cannot be read just now."""
    if not (found := _find_locked()):
        return []
    time.sleep(LOOK_AGAIN_SECONDS)
    return list(ServiceProvider.objects.filter(schema_name__in=found & _find_locked()).order_by("slug"))


def _find_locked() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(LOCKED)
        return {row[0] for row in cursor.fetchall()} - {"public"}
