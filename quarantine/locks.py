"""Providers whose tables somebody else holds locked: their mail waits at the sender, nobody else's does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from psycopg import AsyncConnection, Error, errors, sql
from psycopg.rows import TupleRow

from portal.tenants.database import Pool, finish_within

log = logging.getLogger(__name__)

LOCK_SECONDS = 2.0  # for a lock of a table or row; then whoever wants it is told to come again
LOOK_SECONDS = 1.0
ASK_SECONDS = 5.0
PUBLIC = "public"
SHARED = ("public.platform_hourlycount",)
PROVIDERS = ("quarantine_message", "quarantine_content", "quarantine_recipient", "quarantine_event")
NOBODYS = ("platform_unrouted",)
CUSTODY = ("public.platform_deliveryjob", "public.platform_receipt")


class LockWatch:
    """Which schemas cannot be written because of a lock, looked at every second as long as there are any."""

    def __init__(self, pool: Pool, on_free: Callable[[], None]) -> None:
        self._pool = pool
        self._on_free = on_free
        self._watcher: asyncio.Task[None] | None = None
        self.schemas: frozenset[str] = frozenset()

    async def look(self, schemas: Iterable[str]) -> None:
        """Find out which of these are locked, and watch them from then on."""
        found = await self._find_locked(schemas)
        if found - self.schemas:
            log.error("tables_locked schemas=%s", ",".join(sorted(found)))
        self.schemas |= found
        if self.schemas and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watcher:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    async def _watch(self) -> None:
        while self.schemas:
            await asyncio.sleep(LOOK_SECONDS)
            self.schemas = await self._find_locked(self.schemas)
        log.info("tables_unlocked")
        self._watcher = None
        self._on_free()

    async def _find_locked(self, schemas: Iterable[str]) -> frozenset[str]:
        """Where PostgreSQL does not answer, none is: then that is what is wrong."""
        try:
            return await finish_within(ASK_SECONDS, self._ask(schemas))
        except (Error, OSError):
            return frozenset()

    async def _ask(self, schemas: Iterable[str]) -> frozenset[str]:
        async with self._pool.connection() as connection:
            return frozenset([schema for schema in schemas if await _is_locked(connection, schema)])


async def _is_locked(connection: AsyncConnection[TupleRow], schema: str) -> bool:
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(_make_lock_statement(schema))
    except errors.LockNotAvailable:
        return True
    except errors.UndefinedTable:  # a provider that is no more
        return False
    return False


def _make_lock_statement(schema: str) -> sql.Composed:
    """What writing takes, and none of it if that means to wait."""
    own = NOBODYS if schema == PUBLIC else PROVIDERS
    shared = SHARED if schema == PUBLIC else SHARED + CUSTODY
    tables = [sql.Identifier(schema, name) for name in own] + [sql.Identifier(*name.split(".")) for name in shared]
    return sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE NOWAIT").format(sql.SQL(", ").join(tables))
