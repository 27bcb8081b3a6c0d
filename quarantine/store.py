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
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from psycopg import AsyncConnection, AsyncCursor, OperationalError, errors
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from portal.tenants.database import Pool, end_all, finish_within, is_outage
from quarantine import metrics
from quarantine.doubts import Doubts
from quarantine.faults import name_fault
from quarantine.locks import LockWatch
from quarantine.platform.heartbeat import UPSERT
from quarantine.records import (
    LOOK_UP,
    LOOK_UP_FAILED,
    Count,
    Filing,
    Hour,
    Record,
    Statement,
    Unrouted,
    get_owner,
    list_corrections,
    list_hours,
    make_count_statements,
    make_statement,
)

T = TypeVar("T")
log = logging.getLogger(__name__)

COMMIT_SECONDS = 20  # after that the sender is told to come again
# PostgreSQL gives up before we do: a statement that it finished after that would be a message stored which the sender
# was told to send again.
STATEMENT_SECONDS = 15
CONNECTION_SECONDS = 2.0  # to wait for a connection of the pool
LATE_SECONDS = 3.0  # a commit older than that closes the store until it ends
IDLE_SECONDS = 2.0  # without work, PostgreSQL is asked so often whether it is well
PROBE_SECONDS = 3.0  # for its answer
PAUSE_SECONDS = 1.0  # between two probes while the store is closed
MAX_PAUSE_SECONDS = 4.0  # where it did not stay open for long
STEADY_SECONDS = 10.0
NOTE_SECONDS = 0.5  # notes wait so long for a commit to share, where there is no mail
LAST_SECONDS = 5.0  # for the last notes, when we stop
MAX_BATCH_ITEMS = 100
MAX_BATCH_OCTETS = 32 * 1024 * 1024
MAX_NOTED_RECIPIENTS = 2000  # of notes that share a commit, about
MAX_NOTES = 20_000  # kept in memory while PostgreSQL is away
DURABLE = {"on", "remote_apply"}
IS_READ_ONLY = "SELECT current_setting('transaction_read_only')"
FUNCTIONS = """SELECT 'public.lazaret_take_receipt(bytea, text, double precision)'::regprocedure,
    'public.lazaret_queue_mail(text, bigint, bigint)'::regprocedure"""


class StoreUnavailableError(Exception):
    """It is not stored, or nobody knows: the sender must try again later."""


class DurabilityError(Exception):
    """PostgreSQL is set up to lose what it has confirmed; the text is a sentence for the operator."""


class Store:
    """Takes records and says when they are on disk. One for a process; safe for any number of sessions.

    It closes by itself when PostgreSQL is out of reach, hangs, is full or read-only, and opens again when a write of a
    row has succeeded, which it tries every second or so.
    """

    def __init__(self, pool: Pool, *, instance: str = "") -> None:
        self._pool = pool
        self._instance = instance or f"{socket.gethostname()}:{os.getpid()}"[-64:]
        self._waiting: deque[_Item] = deque()
        self._notes: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._batch: list[_Item] = []  # being written
        self._busy_since: float | None = None  # with something that PostgreSQL has not answered yet
        self._closed_at: float | None = None
        self._opened_at = float("-inf")
        self._pause = PAUSE_SECONDS
        self._is_suspected = False
        self._locks = LockWatch(pool, self._wake.set)
        self._doubts = Doubts()
        self.lost_notes = 0

    @property
    def depth(self) -> int:
        """How many items wait for a commit; notes are not counted, for nobody waits for them."""
        return len(self._waiting)

    @property
    def oldest_seconds(self) -> float:
        """The age of the oldest item that is not on disk yet, those being committed included."""
        ages = [item.at for item in (*self._batch, *self._waiting) if not (item.is_note or item.done.done())]
        return time.monotonic() - min(ages) if ages else 0.0

    @property
    def is_closed(self) -> bool:
        """PostgreSQL cannot store anything just now: the last attempt failed, or the one under way takes too long."""
        hangs = self._busy_since is not None and time.monotonic() - self._busy_since > LATE_SECONDS
        return hangs or self._closed_at is not None

    def suspect(self) -> None:
        """Something has failed elsewhere: see at once whether PostgreSQL can still be written to."""
        self._is_suspected = True
        self._wake.set()

    def check(self, schema: str) -> None:
        """Raise StoreUnavailableError where mail of this provider could not be stored just now: its tables are locked,
        or one of its rows was a moment ago.
        """
        if self.is_closed or self.is_locked(schema):
            raise StoreUnavailableError

    def is_locked(self, schema: str) -> bool:
        """Whether what is for this provider (NOBODY: what reached none) has to wait because of somebody's lock."""
        return schema in self._locks.schemas

    async def start(self) -> None:
        """Begin to write. Raises DurabilityError where PostgreSQL would confirm what it can lose.

        Raises UndefinedFunction where the database is not prepared for us yet: all that we write would fail, and notes
        would be lost.
        """
        async with self._pool.connection() as connection:
            await check_durability(connection)
            await connection.execute(FUNCTIONS)
        self._writer = asyncio.create_task(self._write_for_ever())
        self.suspect()  # what can be read may be read-only

    async def close(self) -> None:
        """Stop after what is being written and the notes; the rest is told to come again."""
        if self._alarm:
            self._alarm.cancel()
        if self._writer:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    while self._batch:  # noqa: ASYNC110 - cut off, its notes would be written twice
                        await asyncio.sleep(0.01)
            await end_all([self._writer])
            with contextlib.suppress(TimeoutError):
                await finish_within(LAST_SECONDS, self._write_notes())
        await self._settle_last()
        await self._locks.close()
        if self._notes:
            log.error("notes_lost number=%d", sum(len(item.rows) + len(item.numbers) for item in self._notes))
        for item in self._waiting:
            item.fail()

    async def _settle_last(self) -> None:
        if not self._doubts:
            return
        try:
            await finish_within(LAST_SECONDS, self._try_to_write())
        except Exception as error:  # noqa: BLE001 - whatever it is, we stop
            log.error("doubts_lost number=%d error=%s", len(self._doubts), name_fault(error))

    async def keep(self, *records: Record) -> str | None:
        """Return when all the records are committed, in one transaction. Raises StoreUnavailableError.

        None: they are new. Else they were known by their receipts, nothing of them was stored, and this is the trace
        id under which they had been taken.

        Cancelled before its transaction has begun, nothing is stored; afterwards it stays stored.
        """
        if self.is_closed:
            raise StoreUnavailableError
        item = _make_item(records)
        if item.schemas & self._locks.schemas:
            raise StoreUnavailableError
        self._waiting.append(item)
        self._wake.set()
        return await item.done

    def note(self, *records: Record) -> None:
        """Have records of what did not become custody written within a second or so. While PostgreSQL is away they
        wait, up to MAX_NOTES of them.
        """
        measure(records)
        self._put(records)

    def _put(self, records: tuple[Record, ...]) -> None:
        if len(self._notes) >= MAX_NOTES:
            self.lost_notes += len(records)
            if self.lost_notes % 1000 == len(records) % 1000:
                log.error("notes_lost number=%d", self.lost_notes)
            return
        self._notes.append(_make_item(records, is_note=True))
        self._wake_within(NOTE_SECONDS)

    def count(self, kind: str, cause: str, number: int) -> None:
        """Add to this hour's count of what leaves no row."""
        self.note(Count(datetime.now(UTC), kind, cause, number))

    @property
    def notes(self) -> int:
        """How many notes are not written yet."""
        return len(self._notes) + sum(item.is_note and not item.done.done() for item in self._batch)

    def _wake_within(self, seconds: float) -> None:
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()

    async def _write_for_ever(self) -> None:
        while True:
            try:
                await self._work()
            except Exception as error:  # noqa: BLE001 - a fault of ours; without the writer nothing is ever stored
                log.error("store_writer_fault error=%s", name_fault(error))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _work(self) -> None:
        if self._closed_at is not None:
            await asyncio.sleep(self._pause)
            await self._probe()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._wake.wait()
        if self._is_suspected or self._doubts.are_due or not self._wake.is_set():
            await self._probe()
        else:
            await self._write_next()

    async def _write_next(self) -> None:
        batch = self._batch = self._take()
        if not batch:
            self._wake.clear()
            return
        try:
            if not await self._write(batch):
                self._close()
        except Exception:
            for item in batch:
                item.fail()  # notes as well: they would fail again
            raise
        finally:
            self._batch = []
            self._notes.extendleft(item for item in reversed(batch) if item.is_note and not item.done.done())
            for item in batch:
                if not item.is_note:
                    item.fail()  # whoever has no answer yet

    async def _probe(self) -> None:
        """Find out whether PostgreSQL can be written to; where that is in doubt, by writing."""
        is_doubtful = self._is_suspected or self._doubts.are_due or self._closed_at is not None
        self._is_suspected = False
        try:
            await self._finish(PROBE_SECONDS, self._try_to_write() if is_doubtful else self._ask())
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing can be stored
            if self._closed_at is None:
                log.warning("store_probe_failed error=%s", name_fault(error))
            self._close()
        else:
            self._open()

    async def _try_to_write(self) -> None:
        async with self._pool.connection(CONNECTION_SECONDS) as connection:
            await connection.execute(UPSERT, ("gateway", self._instance))
            await self._doubts.settle(connection)  # before any of them can come again

    async def _ask(self) -> None:
        async with self._pool.connection(CONNECTION_SECONDS) as connection:
            cursor = await connection.execute(IS_READ_ONLY)
            if await cursor.fetchone() != ("off",):
                raise errors.ReadOnlySqlTransaction

    def _close(self) -> None:
        """Tell all who wait, and all who come, to come again later."""
        if self._closed_at is None:
            self._closed_at = time.monotonic()
            flaps = self._closed_at - self._opened_at < STEADY_SECONDS
            self._pause = min(self._pause * 2, MAX_PAUSE_SECONDS) if flaps else PAUSE_SECONDS
            log.error("store_closed items=%d", len(self._waiting))
        for item in self._waiting:
            item.fail()
        self._waiting.clear()

    def _open(self) -> None:
        if self._closed_at is None:
            return
        self._opened_at = time.monotonic()
        log.warning("store_open seconds=%.1f", self._opened_at - self._closed_at)
        self._closed_at = None
        self._wake.set()

    async def _finish(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """The result of what PostgreSQL is asked; TimeoutError where it does not answer in time."""
        self._busy_since = time.monotonic()
        try:
            return await finish_within(seconds, work)
        finally:
            self._busy_since = None

    async def _write_notes(self) -> None:
        is_written = True
        while is_written and (notes := self._take_notes(MAX_BATCH_ITEMS)):
            try:
                is_written = await self._write(notes)
            finally:
                self._notes.extendleft(item for item in reversed(notes) if not item.done.done())

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        octets = 0
        while self._waiting and len(batch) < MAX_BATCH_ITEMS and octets < MAX_BATCH_OCTETS:
            item = self._waiting.popleft()
            if not item.done.done():  # its session may have gone meanwhile
                batch.append(item)
                octets += item.octets
        return batch + self._take_notes(MAX_BATCH_ITEMS)

    def _take_notes(self, number: int) -> list[_Item]:
        """The first notes, but for those that a lock keeps from being written."""
        notes: list[_Item] = []
        recipients = 0
        while self._notes and len(notes) < number and recipients < MAX_NOTED_RECIPIENTS:
            notes.append(self._notes.popleft())
            recipients += notes[-1].recipients
        if not self._locks.schemas:
            return notes
        self._notes.extend(item for item in notes if item.schemas & self._locks.schemas)
        return self._leave_locked(notes)

    async def _write(self, batch: list[_Item]) -> bool:
        """Commit the batch; where PostgreSQL will not have it, one by one, so that only the culprit fails, and none
        where two gateways held what the other wanted. A locked row fails whatever is for its provider: the others
        wait for it twice LOCK_SECONDS (here, and alone), and not again before HOLD_SECONDS are over.

        False when PostgreSQL is out of reach: then nothing more is tried for this batch.
        """
        begun = time.monotonic()
        try:
            answers = await self._finish(COMMIT_SECONDS, self._commit(batch))
        except errors.LockNotAvailable:
            await self._locks.look({schema for item in batch for schema in item.schemas})
            return await self._write_free(batch)
        except Exception as error:  # noqa: BLE001 - PostgreSQL is away, or it refuses, or it is a fault of ours in an item
            if is_outage(error):
                log.warning("store_unavailable error=%s items=%d", name_fault(error), len(batch))
                if not isinstance(error, PoolTimeout):  # else PostgreSQL has not seen it
                    self._doubts.add(row for item in batch for row in item.rows)
                return False
            if len(batch) > 1:
                log.warning("store_refused error=%s items=%d", name_fault(error), len(batch))
                return await self._write_singly(batch)
            log.error("store_refused_item error=%s", name_fault(error))
            batch[0].fail()
            return True
        metrics.COMMIT_SECONDS.observe(time.monotonic() - begun)
        metrics.COMMIT_ITEMS.observe(len(batch))
        for item, known in zip(batch, answers, strict=True):
            first = next(filter(None, known), None)
            item.succeed(first)
            if not item.is_note:
                measure(item.rows, again=first is not None)
            if first is not None:
                self._correct(row for row, trace_id in zip(item.rows, known, strict=True) if trace_id is not None)
        return True

    def _correct(self, rows: Iterable[Filing | Unrouted]) -> None:
        """Put the counts right where rows were known already."""
        self._put(tuple(correction for row in rows for correction in list_corrections(row)))

    async def _write_free(self, batch: list[_Item]) -> bool:
        """Write what no lock keeps from it; the others are told to come again."""
        free = self._leave_locked(batch)
        if len(free) == len(batch) == 1:  # it was a row, of a transaction that hangs
            self._hold_back(batch[0])
            return True
        return await self._write_singly(free) if len(free) == len(batch) else not free or await self._write(free)

    def _hold_back(self, item: _Item) -> None:
        """Let nobody else wait for the row that this one waited for. A note is written later."""
        if item.schemas:
            self._locks.hold(item.schemas)
        if not (item.is_note and item.schemas):
            item.fail()

    def _leave_locked(self, items: list[_Item]) -> list[_Item]:
        return [item for item in items if not item.schemas & self._locks.schemas]

    async def _write_singly(self, batch: Iterable[_Item]) -> bool:
        for item in batch:
            if self._leave_locked([item]) and not await self._write([item]):
                return False
        return True

    async def _commit(self, batch: list[_Item]) -> list[list[str | None]]:
        """One transaction, one round trip: for each row of each item, under which trace id it was known already."""
        async with self._pool.connection(CONNECTION_SECONDS) as connection:
            async with connection.pipeline():
                await connection.execute("BEGIN")
                cursors = [
                    [await query.execute(connection, values) for query, values in item.statements] for item in batch
                ]
                for query, values in make_count_statements(_add_up(batch), self._instance):
                    await query.execute(connection, values)
                committed = await connection.execute("COMMIT")
            if committed.statusmessage != "COMMIT":
                raise OperationalError(f"the transaction ended with {committed.statusmessage}")
            return [[await _read_first(cursor) for cursor in group] for group in cursors]


@dataclass(slots=True)
class _Item:
    """Records that belong together, and (but for a note) who waits for them."""

    rows: tuple[Filing | Unrouted, ...]
    numbers: tuple[Count, ...]
    statements: tuple[Statement, ...]  # one for each of the rows
    done: asyncio.Future[str | None]
    is_note: bool
    at: float = field(default_factory=time.monotonic)

    @property
    def schemas(self) -> set[str]:
        return set(map(get_owner, self.rows))

    @property
    def recipients(self) -> int:
        return sum(len(row.outcomes) if isinstance(row, Filing) else 1 for row in self.rows)

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
    rows = tuple(record for record in records if not isinstance(record, Count))
    numbers = tuple(record for record in records if isinstance(record, Count))
    done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    return _Item(rows, numbers, tuple(map(make_statement, rows)), done, is_note)


def measure(records: Iterable[Record], *, again: bool = False) -> None:
    """Count what the table of counts will have too; where PostgreSQL is away, before it does."""
    metrics.DUPLICATES.inc(again)
    for record in records:
        for (_, _, _, kind, cause), number in list_hours(record, again=again):
            if kind not in {LOOK_UP, LOOK_UP_FAILED}:
                metrics.RECIPIENTS.labels(kind, cause).inc(number)


async def _read_first(cursor: AsyncCursor[TupleRow]) -> str | None:
    """The trace id that a statement returned, if it returns any."""
    row = await cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def _add_up(batch: list[_Item]) -> Counter[Hour]:
    """What a batch adds to the counts, if all of it is new; what is not is put right by the next."""
    counts: Counter[Hour] = Counter()
    for item in batch:
        for record in (*item.rows, *item.numbers):
            for hour, number in list_hours(record):
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
