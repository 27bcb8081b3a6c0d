"""Custody: what was received, and what was refused, written so that it stays.

Group commit: everything handed in while a commit is running shares the next one, with one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg import AsyncConnection, AsyncCursor, OperationalError, errors
from psycopg.rows import TupleRow

from portal.tenants.database import Pool, finish_within
from quarantine.faults import name_fault
from quarantine.records import (
    Filing,
    Hour,
    Record,
    Statement,
    Tally,
    Unrouted,
    list_hours,
    make_count_statement,
    make_statement,
)

log = logging.getLogger(__name__)

COMMIT_SECONDS = 20  # after that the sender is told to come again
# PostgreSQL gives up before we do: a statement that it finished after that would be a message stored which the sender
# was told to send again.
STATEMENT_SECONDS = 15
CONNECTION_SECONDS = 2.0  # to wait for a connection of the pool
PAUSE_SECONDS = 1.0  # after PostgreSQL was out of reach, senders are told so at once instead of made to wait
NOTE_SECONDS = 0.5  # notes wait so long for a commit to share, where there is no mail
LAST_SECONDS = 5.0  # for the last notes, when we stop
MAX_BATCH_ITEMS = 100
MAX_BATCH_OCTETS = 32 * 1024 * 1024
MAX_NOTES = 20_000  # kept in memory while PostgreSQL is away
DURABLE = {"on", "remote_apply"}
# Two gateways hold what the other wants: not the items' fault, and one by one they pass.
COLLIDED = (errors.DeadlockDetected, errors.SerializationFailure)


class StoreUnavailableError(Exception):
    """It is not stored, or nobody knows: the sender must try again later."""


class DurabilityError(Exception):
    """PostgreSQL is set up to lose what it has confirmed; the text is a sentence for the operator."""


class Store:
    """Takes records and says when they are on disk. One for a process; safe for any number of sessions."""

    def __init__(self, pool: Pool, *, instance: str = "") -> None:
        self._pool = pool
        self._instance = instance or f"{socket.gethostname()}:{os.getpid()}"[-64:]
        self._waiting: deque[_Item] = deque()
        self._notes: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._paused_until = 0.0
        self.lost_notes = 0

    async def start(self) -> None:
        """Begin to write. Raises DurabilityError where PostgreSQL would confirm what it can lose."""
        async with self._pool.connection() as connection:
            await check_durability(connection)
        self._writer = asyncio.create_task(self._write_for_ever())

    async def close(self) -> None:
        """Stop after what is being written and the notes; the rest is told to come again."""
        if self._alarm:
            self._alarm.cancel()
        if self._writer:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            with contextlib.suppress(TimeoutError):
                await finish_within(LAST_SECONDS, self._write_notes())
        for item in self._waiting:
            item.fail()

    async def keep(self, *records: Record) -> str | None:
        """Return when all the records are committed, in one transaction. Raises StoreUnavailableError.

        None: they are new. Else they were known by their receipts, nothing of them was stored, and this is the trace
        id under which they had been taken.

        Cancelled before its transaction has begun, nothing is stored; afterwards it stays stored.
        """
        if time.monotonic() < self._paused_until:
            raise StoreUnavailableError
        item = _make_item(records)
        self._waiting.append(item)
        self._wake.set()
        return await item.done

    def note(self, *records: Record) -> None:
        """Have records of what did not become custody written within a second or so. While PostgreSQL is away they
        wait, up to MAX_NOTES of them.
        """
        if len(self._notes) >= MAX_NOTES:
            self.lost_notes += len(records)
            if self.lost_notes % 1000 == len(records) % 1000:
                log.error("notes_lost number=%d", self.lost_notes)
            return
        self._notes.append(_make_item(records, is_note=True))
        self._wake_within(NOTE_SECONDS)

    def count(self, kind: str, cause: str, number: int) -> None:
        """Add to this hour's count of what leaves no row."""
        self.note(Tally(datetime.now(UTC), kind, cause, number))

    def _wake_within(self, seconds: float) -> None:
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()

    async def _write_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                continue
            try:
                if not await self._write(batch):
                    self._pause()
                    batch += self._waiting
                    self._waiting.clear()
            finally:
                self._notes.extendleft(item for item in reversed(batch) if item.is_note and not item.done.done())
                for item in batch:
                    if not item.is_note:
                        item.fail()  # whoever has no answer yet

    async def _write_notes(self) -> None:
        while self._notes and await self._write(self._take_notes(MAX_BATCH_ITEMS)):
            pass

    def _pause(self) -> None:
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        if self._notes:
            self._wake_within(PAUSE_SECONDS)

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        octets = 0
        while self._waiting and len(batch) < MAX_BATCH_ITEMS and octets < MAX_BATCH_OCTETS:
            item = self._waiting.popleft()
            if not item.done.done():  # its session may have gone meanwhile
                batch.append(item)
                octets += item.octets
        if time.monotonic() >= self._paused_until:
            batch += self._take_notes(MAX_BATCH_ITEMS)
        return batch

    def _take_notes(self, number: int) -> list[_Item]:
        return [self._notes.popleft() for _ in range(min(number, len(self._notes)))]

    async def _write(self, batch: list[_Item]) -> bool:
        """Commit the batch; where PostgreSQL will not have it, one by one, so that only the culprit fails.

        False when PostgreSQL is out of reach: then nothing more is tried for this batch.
        """
        try:
            answers = await finish_within(COMMIT_SECONDS, self._commit(batch))
        except (OperationalError, TimeoutError, OSError) as error:
            if isinstance(error, COLLIDED) and len(batch) > 1:
                return await self._write_singly(batch)
            log.warning("store_unavailable error=%s items=%d", type(error).__name__, len(batch))
            return False
        except Exception as error:  # noqa: BLE001 - PostgreSQL's refusal, or a fault of ours in one of the items
            log.error("store_refused error=%s items=%d", name_fault(error), len(batch))
            if len(batch) > 1:
                return await self._write_singly(batch)
            batch[0].fail()
            return True
        for item, answer in zip(batch, answers, strict=True):
            item.succeed(answer)
        return True

    async def _write_singly(self, batch: list[_Item]) -> bool:
        for item in batch:
            if not await self._write([item]):
                return False
        return True

    async def _commit(self, batch: list[_Item]) -> list[str | None]:
        """One transaction: for each item, under which trace id it was known already. Two round trips."""
        async with self._pool.connection(CONNECTION_SECONDS) as connection:
            async with connection.pipeline() as pipeline:
                await connection.execute("BEGIN")
                cursors = [
                    [await connection.execute(query, values) for query, values in item.statements] for item in batch
                ]
                await pipeline.sync()
                answers = [[await _read_first(cursor) for cursor in group] for group in cursors]
                counts = _add_up(batch, answers)
                if counts:
                    await connection.execute(*make_count_statement(counts, self._instance))
                committed = await connection.execute("COMMIT")
            if committed.statusmessage != "COMMIT":
                raise OperationalError(f"the transaction ended with {committed.statusmessage}")
        return [next(filter(None, group), None) for group in answers]


@dataclass(slots=True)
class _Item:
    """Records that belong together, and (but for a note) who waits for them."""

    rows: tuple[Filing | Unrouted, ...]
    tallies: tuple[Tally, ...]
    statements: tuple[Statement, ...]  # one for each of the rows
    done: asyncio.Future[str | None]
    is_note: bool

    @property
    def octets(self) -> int:
        return sum(len(values.get("data") or b"") for _, values in self.statements)

    def succeed(self, answer: str | None) -> None:
        if not self.done.done():
            self.done.set_result(answer)

    def fail(self) -> None:
        if self.is_note:
            self.succeed(None)  # nobody waits
        elif not self.done.done():
            self.done.set_exception(StoreUnavailableError())


def _make_item(records: tuple[Record, ...], *, is_note: bool = False) -> _Item:
    rows = tuple(record for record in records if not isinstance(record, Tally))
    tallies = tuple(record for record in records if isinstance(record, Tally))
    done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    return _Item(rows, tallies, tuple(map(make_statement, rows)), done, is_note)


async def _read_first(cursor: AsyncCursor[TupleRow]) -> str | None:
    """The trace id that a statement returned, if it returns any."""
    row = await cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def _add_up(batch: list[_Item], answers: list[list[str | None]]) -> Counter[Hour]:
    counts: Counter[Hour] = Counter()
    for item, group in zip(batch, answers, strict=True):
        known: list[tuple[Record, str | None]] = [
            *zip(item.rows, group, strict=True),
            *((tally, None) for tally in item.tallies),
        ]
        for record, first in known:
            for hour, number in list_hours(record, again=first is not None):
                counts[hour] += number
    return counts


async def check_durability(connection: AsyncConnection[TupleRow]) -> None:
    """Raise DurabilityError unless a commit is on disk before it is confirmed; fsync off is only warned about."""
    cursor = await connection.execute("SELECT current_setting('synchronous_commit'), current_setting('fsync')")
    [(commit, fsync)] = await cursor.fetchall()
    if commit not in DURABLE:
        raise DurabilityError(
            f"PostgreSQL's synchronous_commit is {commit}; it must be on (or remote_apply), or accepted mail gets lost."
        )
    if fsync != "on":
        log.warning("postgres_fsync_off a power failure would lose accepted mail")
