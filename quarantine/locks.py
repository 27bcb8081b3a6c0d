"""Providers whose tables or rows somebody else holds locked: their mail waits at the sender, nobody else's does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from psycopg import AsyncConnection, errors, sql
from psycopg.rows import TupleRow

from portal.tenants.database import Pool, end_all, finish_within
from quarantine.faults import name_fault

log = logging.getLogger(__name__)

LOCK_SECONDS = 2.0  # for a lock of a table or row; then whoever wants it is told to come again
LOOK_SECONDS = 1.0
ASK_SECONDS = 5.0
HOLD_SECONDS = 5.0  # a locked row shows only to those who want it: then one more has to try
PUBLIC = "public"  # records.NOBODY
SHARED = ("public.platform_hourlycount",)
PROVIDERS = ("quarantine_message", "quarantine_content", "quarantine_recipient", "quarantine_event")
NOBODYS = ("platform_unrouted",)
CUSTODY = ("public.platform_deliveryjob", "public.platform_receipt")
READ = ("people_mailbox",)  # a row that a recipient refers to is locked for as long as the commit takes


class LockWatch:
    """Which schemas cannot be written because of a lock: of a table, looked at every second as long as there are any;
    of a row, held back for HOLD_SECONDS after each attempt.
    """

    def __init__(self, pool: Pool, on_free: Callable[[], None]) -> None:
        self._pool = pool
        self._on_free = on_free
        self._watcher: asyncio.Task[None] | None = None
        self._tables: frozenset[str] = frozenset()
        self._shared: list[str] = []  # tables of all providers that were locked when we looked last
        self._held: dict[str, float] = {}  # until when

    @property
    def schemas(self) -> frozenset[str]:
        return self._tables.union(self._held)

    async def look(self, schemas: Iterable[str]) -> None:
        """Find out which of these have a locked table, and watch them from then on."""
        found = await self._find_locked(schemas)
        if found - self._tables:
            shared = ",".join(self._shared)
            log.error("tables_locked %s", f"tables={shared}" if shared else f"schemas={','.join(sorted(found))}")
        self._tables |= found
        self._start()

    def hold(self, schemas: Iterable[str]) -> None:
        """Have these left alone for a while: a row was locked that one item of theirs wanted."""
        until = time.monotonic() + HOLD_SECONDS
        self._held |= dict.fromkeys(schemas, until)
        log.error("rows_locked schemas=%s seconds=%.0f", ",".join(sorted(schemas)), HOLD_SECONDS)
        self._start()

    async def close(self) -> None:
        if self._watcher:
            await end_all([self._watcher])

    def _start(self) -> None:
        if self.schemas and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while known := self.schemas:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            self._held = {schema: until for schema, until in self._held.items() if until > now}
            if watched := self._tables:
                self._tables = await self._find_locked(watched) | self._tables - watched
                if not self._tables:
                    log.info("tables_unlocked")
            if known - self.schemas:
                self._on_free()
        self._watcher = None

    async def _find_locked(self, schemas: Iterable[str]) -> frozenset[str]:
        """Where PostgreSQL does not answer, none is: then that is what is wrong."""
        try:
            return await finish_within(ASK_SECONDS, self._ask(schemas))
        except Exception as error:  # noqa: BLE001 - whoever asks has work to do that must go on
            log.warning("lock_look_failed error=%s", name_fault(error))
            return frozenset()

    async def _ask(self, schemas: Iterable[str]) -> frozenset[str]:
        async with self._pool.connection() as connection:
            names = {name: sql.Identifier(*name.split(".")) for name in SHARED + CUSTODY}
            self._shared = [name for name, table in names.items() if await _are_locked(connection, [table])]
            stopping = {PUBLIC: set(SHARED).intersection(self._shared)}  # what reached nobody has no receipt and no job
            return frozenset(
                [
                    schema
                    for schema in schemas
                    if stopping.get(schema, self._shared) or await _is_locked(connection, schema)
                ]
            )


async def _is_locked(connection: AsyncConnection[TupleRow], schema: str) -> bool:
    if schema == PUBLIC:
        return await _are_locked(connection, [sql.Identifier(schema, name) for name in NOBODYS])
    written, read = ([sql.Identifier(schema, name) for name in names] for names in (PROVIDERS, READ))
    return await _are_locked(connection, written) or await _are_locked(connection, read, "ROW SHARE")


async def _are_locked(
    connection: AsyncConnection[TupleRow], tables: Iterable[sql.Identifier], mode: str = "ROW EXCLUSIVE"
) -> bool:
    """Whether somebody would have to wait for what writing takes, by default."""
    statement = sql.SQL("LOCK TABLE {} IN {} MODE NOWAIT").format(sql.SQL(", ").join(tables), sql.SQL(mode))
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(statement)
    except errors.LockNotAvailable:
        return True
    except errors.UndefinedTable:  # a provider that is no more
        return False
    return False
