"""Custody: what was received, and what was refused, written so that it stays. The hot SQL of the gateway.

Group commit: everything handed in while a commit is running shares the next one, with one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from psycopg import AsyncConnection, OperationalError, sql
from psycopg.rows import TupleRow

from filtering.evidence import Evidence, PtrEvidence
from filtering.verdict import Finding, Verdict
from portal.tenants.database import Pool, finish_within
from quarantine.faults import name_fault
from quarantine.models import State

log = logging.getLogger(__name__)

COMMIT_SECONDS = 20  # after that the sender is told to come again
# PostgreSQL gives up before we do: a statement that it finished after that would be a message stored which the sender
# was told to send again.
STATEMENT_SECONDS = 15
CONNECTION_SECONDS = 2.0  # to wait for a connection of the pool
PAUSE_SECONDS = 1.0  # after PostgreSQL was out of reach, senders are told so at once instead of made to wait
MAX_BATCH_ITEMS = 100
MAX_BATCH_OCTETS = 32 * 1024 * 1024
SURROGATE = re.compile("[\ud800-\udfff]")
DURABLE = {"on", "remote_apply"}


class StoreUnavailableError(Exception):
    """It is not stored, or nobody knows: the sender must try again later."""


class DurabilityError(Exception):
    """PostgreSQL is set up to lose what it has confirmed; the text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """Who sent, from where. `client_ip` is the address of the connection; `sender` is empty for the null path."""

    trace_id: str
    received_at: datetime
    client_ip: str
    sender: str
    helo: str = ""
    tls: str = ""
    ptr: PtrEvidence = field(default_factory=PtrEvidence)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of the message for one recipient, and the line of the trace that says so."""

    address: str  # as given at RCPT
    domain_id: int
    mailbox_id: int | None
    state: State
    verdict: Verdict
    reply: str
    event: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Filing:
    """One message in one provider's schema. Without `stored` (codec, octets) no content is kept: it was refused."""

    schema: str
    transaction: Transaction
    outcomes: tuple[Outcome, ...]
    evidence: Evidence = field(default_factory=Evidence)
    size: int = 0
    sha256: bytes | None = None
    stored: tuple[int, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Unrouted:
    """A recipient refused that belongs to no provider."""

    transaction: Transaction
    recipient: str
    reply: str


Record = Filing | Unrouted
Statement = tuple[sql.Composed | str, dict[str, Any]]

# A transaction whose recipients were refused one by one before has its row already: later news replaces the older.
FILE = """
WITH message AS (
    INSERT INTO {schema}.quarantine_message
        (trace_id, received_at, client_ip, ptr_status, ptr_name, helo, tls, sender, size, sha256,
         header_from, subject, message_id, evidence, policy_release)
    VALUES (%(trace_id)s, %(received_at)s, %(client_ip)s, %(ptr_status)s, %(ptr_name)s, %(helo)s, %(tls)s, %(sender)s,
            %(size)s, %(sha256)b, %(header_from)s, %(subject)s, %(message_id)s, %(evidence)s, %(policy_release)s)
    ON CONFLICT (trace_id) DO UPDATE SET
        received_at = excluded.received_at, size = excluded.size, sha256 = excluded.sha256,
        header_from = excluded.header_from, subject = excluded.subject, message_id = excluded.message_id,
        evidence = excluded.evidence, policy_release = excluded.policy_release
    RETURNING id
), content AS (
    INSERT INTO {schema}.quarantine_content (message_id, codec, data)
    SELECT id, %(codec)s::smallint, %(data)b FROM message WHERE %(codec)s::smallint IS NOT NULL
), outcome AS (
    SELECT * FROM jsonb_to_recordset(%(outcomes)s::jsonb) AS o (
        address text, mailbox_id bigint, domain_id bigint, state text, action text, category text, score float8,
        findings jsonb, reply text, event text, text text)
), recipient AS (
    INSERT INTO {schema}.quarantine_recipient
        (message_id, address, mailbox_id, domain_id, received_at, state, action, category, score, findings,
         policy_release, reply)
    SELECT message.id, o.address, o.mailbox_id, o.domain_id, %(received_at)s, o.state, o.action, o.category, o.score,
           o.findings, %(policy_release)s, o.reply
    FROM message, outcome o
    RETURNING id, message_id, address, domain_id, state
), job AS (
    INSERT INTO public.platform_deliveryjob (schema, recipient_id, domain_id, lane)
    SELECT {name}, id, domain_id, 'mail' FROM recipient WHERE state = 'delivering'
)
INSERT INTO {schema}.quarantine_event (message_id, recipient_id, kind, text)
SELECT r.message_id, r.id, o.event, o.text FROM recipient r JOIN outcome o USING (address)
"""

UNROUTED = """
INSERT INTO public.platform_unrouted
    (trace_id, at, client_ip, ptr_status, helo, sender, recipient, reply)
VALUES (%(trace_id)s, %(received_at)s, %(client_ip)s, %(ptr_status)s, %(helo)s, %(sender)s, %(recipient)s, %(reply)s)
"""


@cache
def get_file_statement(schema: str) -> sql.Composed:
    return sql.SQL(FILE).format(schema=sql.Identifier(schema), name=sql.Literal(schema))


class Store:
    """Takes records and says when they are on disk. One for a process; safe for any number of sessions."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: deque[_Item] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._paused_until = 0.0

    async def start(self) -> None:
        """Begin to write. Raises DurabilityError where PostgreSQL would confirm what it can lose."""
        async with self._pool.connection() as connection:
            await check_durability(connection)
        self._writer = asyncio.create_task(self._write_for_ever())

    async def close(self) -> None:
        """Stop after what is being written; the rest is told to come again."""
        if self._writer:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        for item in self._waiting:
            item.fail()

    async def keep(self, *records: Record) -> None:
        """Return when all the records are committed, in one transaction. Raises StoreUnavailableError.

        Cancelled before its transaction has begun, nothing is stored; afterwards it stays stored.
        """
        if time.monotonic() < self._paused_until:
            raise StoreUnavailableError
        item = _Item(tuple(map(make_statement, records)), asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._wake.set()
        await item.done

    async def _write_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                continue
            try:
                if not await self._write(batch):
                    self._paused_until = time.monotonic() + PAUSE_SECONDS
                    batch += self._waiting
                    self._waiting.clear()
            finally:
                for item in batch:
                    item.fail()  # whoever has no answer yet

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        octets = 0
        while self._waiting and len(batch) < MAX_BATCH_ITEMS and octets < MAX_BATCH_OCTETS:
            item = self._waiting.popleft()
            if not item.done.done():  # its session may have gone meanwhile
                batch.append(item)
                octets += item.octets
        return batch

    async def _write(self, batch: list[_Item]) -> bool:
        """Commit the batch; where PostgreSQL will not have it, one by one, so that only the culprit fails.

        False when PostgreSQL is out of reach: then nothing more is tried for this batch.
        """
        try:
            await finish_within(COMMIT_SECONDS, self._commit(batch))
        except (OperationalError, TimeoutError, OSError) as error:
            log.warning("store_unavailable error=%s items=%d", type(error).__name__, len(batch))
            return False
        except Exception as error:  # noqa: BLE001 - PostgreSQL's refusal, or a fault of ours in one of the items
            log.error("store_refused error=%s items=%d", name_fault(error), len(batch))
            for item in batch if len(batch) > 1 else ():
                if not await self._write([item]):
                    return False
            return True
        for item in batch:
            item.succeed()
        return True

    async def _commit(self, batch: list[_Item]) -> None:
        """One transaction, one round trip."""
        async with self._pool.connection(CONNECTION_SECONDS) as connection:
            async with connection.pipeline():
                await connection.execute("BEGIN")
                for item in batch:
                    for query, values in item.statements:
                        await connection.execute(query, values)
                committed = await connection.execute("COMMIT")
            if committed.statusmessage != "COMMIT":
                raise OperationalError(f"the transaction ended with {committed.statusmessage}")


class _Item:
    """Statements that belong together, and who waits for them."""

    def __init__(self, statements: tuple[Statement, ...], done: asyncio.Future[None]) -> None:
        self.statements = statements
        self.done = done
        self.octets = sum(len(values.get("data") or b"") for _, values in statements)

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self) -> None:
        if not self.done.done():
            self.done.set_exception(StoreUnavailableError())


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


def make_statement(record: Record) -> Statement:
    """The statement for a record, its strings made fit for PostgreSQL and for their columns."""
    values = _describe(record.transaction)
    if isinstance(record, Unrouted):
        return UNROUTED, values | {"recipient": clean(record.recipient, 320), "reply": clean(record.reply, 600)}
    codec, data = record.stored or (None, None)
    content, outcomes = record.evidence.content, record.outcomes
    values |= {
        "size": record.size,
        "sha256": record.sha256,
        "codec": codec,
        "data": data,
        "header_from": clean(content.header_from, 500),
        "subject": clean(content.subject, 500),
        "message_id": clean(content.message_id, 998),
        "evidence": dump_json(record.evidence.to_json()),
        "policy_release": max((outcome.verdict.policy_release for outcome in outcomes), default=0),
        "outcomes": dump_json(list(map(describe_outcome, outcomes))),
    }
    return get_file_statement(record.schema), values


def _describe(transaction: Transaction) -> dict[str, Any]:
    return {
        "trace_id": transaction.trace_id,
        "received_at": transaction.received_at,
        "client_ip": transaction.client_ip or None,
        "ptr_status": transaction.ptr.status.value,
        "ptr_name": clean(transaction.ptr.name, 255),
        "helo": clean(transaction.helo, 255),
        "tls": clean(transaction.tls, 60),
        "sender": clean(transaction.sender, 320),
    }


def describe_outcome(outcome: Outcome) -> dict[str, Any]:
    """An outcome by the names of the statement's columns."""
    return {
        "address": outcome.address[:320],
        "mailbox_id": outcome.mailbox_id,
        "domain_id": outcome.domain_id,
        "state": outcome.state.value,
        "action": outcome.verdict.action.value,
        "category": outcome.verdict.category.value,
        "score": outcome.verdict.score,
        "findings": list(map(describe_finding, outcome.verdict.findings)),
        "reply": outcome.reply[:600],
        "event": outcome.event,
        "text": outcome.text[:1000],
    }


def describe_finding(finding: Finding) -> dict[str, Any]:
    """A finding as it is stored: what is not said is the default."""
    stored: dict[str, Any] = {"check": finding.check, "points": finding.points, "text": finding.text}
    if not finding.learn:
        stored["learn"] = False
    if finding.category:
        stored["category"] = finding.category.value
    if finding.action:
        stored["action"] = finding.action.value
    return stored


def clean(text: str, limit: int) -> str:
    """The text as PostgreSQL takes it (no NUL, no lone surrogate), cut to `limit` characters."""
    text = text[:limit]
    if text.isascii() and "\0" not in text:
        return text
    return SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def dump_json(value: Any) -> str:
    """JSON as PostgreSQL's jsonb takes it: without NUL and lone surrogates."""
    text = _dump(value)
    if "\\u0000" in text or SURROGATE.search(text):
        text = _dump(_clean_deeply(value))
    return text


_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _clean_deeply(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, len(value))
    if isinstance(value, Mapping):
        return {key: _clean_deeply(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_deeply(item) for item in value]
    return value
