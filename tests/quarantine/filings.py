"""A store of the test database's own, records for it, and what is there of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
from django_tenants.utils import schema_context

from filtering.verdict import Action, Category, Finding, Verdict
from portal.tenants.database import get_conninfo, make_pool
from portal.tenants.people.models import Mailbox
from quarantine.content import compress
from quarantine.models import Content, Event, Message, Recipient, State
from quarantine.platform.models import DeliveryJob
from quarantine.records import Filing, Outcome, Transaction
from quarantine.store import Store, StoreUnavailableError
from quarantine.trace_id import make_trace_id

RAW = b"Subject: x\r\n\r\nx\r\n"
VERDICT = Verdict(Action.DELIVER, Category.CLEAN, 1.5, (Finding("check", 1.5, "why"),), 1)


@asynccontextmanager
async def open_store(statement_seconds: float = 0):
    pool = make_pool(name="test", max_size=2, statement_seconds=statement_seconds)
    await pool.open()
    store = Store(pool)
    await store.start()
    try:
        yield store
    finally:
        await store.close()
        await pool.close()


def make_filing(**changes) -> Filing:
    with schema_context("sp_acme"):
        bob = Mailbox.objects.get(address="bob@alpha.test")
    outcome = Outcome(bob.address, bob.domain_id, bob.pk, State.DELIVERING, VERDICT, "250 Ok", "accepted", "why")
    transaction = Transaction(make_trace_id(), datetime.now(UTC), "192.0.2.1", "ann@sender.test", helo="x")
    filing = Filing("sp_acme", transaction, (outcome,), size=len(RAW), sha256=b"x" * 32, stored=compress(RAW))
    return replace(filing, **changes)


def with_sender(sender: str) -> Filing:
    filing = make_filing()
    return replace(filing, transaction=replace(filing.transaction, sender=sender))


async def keep_all(store: Store, *filings: Filing) -> list[bool]:
    """Which of the records were kept, when all are handed in at once."""
    results = await asyncio.gather(*(store.keep(filing) for filing in filings), return_exceptions=True)
    failed = [isinstance(result, BaseException) for result in results]
    assert all(isinstance(result, StoreUnavailableError) for result in results if isinstance(result, BaseException))
    return [not one for one in failed]


def run(*filings: Filing) -> list[bool]:
    async def work() -> list[bool]:
        async with open_store() as store:
            return await keep_all(store, *filings)

    return asyncio.run(work())


def count() -> tuple[int, int, int, int, int]:
    with schema_context("sp_acme"):
        tables = (Message, Recipient, Content, Event)
        return *(table.objects.count() for table in tables), DeliveryJob.objects.count()


async def is_blocked() -> bool:
    async with await psycopg.AsyncConnection.connect(get_conninfo(), autocommit=True) as watcher:
        cursor = await watcher.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        row = await cursor.fetchone()
    return bool(row and row[0])
