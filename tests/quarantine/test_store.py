"""Custody: together or not at all, and one bad record harms nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest
from django.db import connection
from django_tenants.utils import schema_context

from filtering.evidence import ContentEvidence, Evidence, PtrEvidence, PtrStatus
from filtering.verdict import Finding
from portal.tenants.database import get_conninfo, make_pool
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine.delivery.rows import FEW, LOAD, SMALL, in_schema
from quarantine.models import Message, Recipient, State
from quarantine.platform.models import DeliveryJob
from quarantine.records import clean, make_statement
from quarantine.store import DurabilityError, Store, StoreUnavailableError
from quarantine.trace_id import make_trace_id
from tests.quarantine.filings import VERDICT, count, is_blocked, keep_all, make_filing, open_store, run, with_sender

pytestmark = pytest.mark.usefixtures("committed")


@pytest.mark.parametrize("receipt", [None, b"f" * 32])
def test_each_recipient_that_is_to_be_delivered_to_has_one_job_and_no_other_has(receipt):
    filing = make_filing(receipt=receipt)
    [bob] = filing.outcomes
    others = [
        replace(bob, address=f"{number}@alpha.test", mailbox_id=None, state=state)
        for number, state in enumerate([State.DELIVERING, State.QUARANTINED, State.DELIVERING])
    ]
    several = make_filing(outcomes=(bob, *others), receipt=receipt and b"g" * 32)
    assert run(filing, several) == [True, True]
    with schema_context("sp_acme"):
        wanted = Recipient.objects.filter(state=State.DELIVERING).values_list("pk", flat=True)
        assert sorted(DeliveryJob.objects.values_list("recipient_id", flat=True)) == sorted(wanted)
    assert len(wanted) == 4


def test_everything_of_a_message_is_there():
    assert run(make_filing()) == [True]
    assert count() == (1, 1, 1, 1, 1)
    with schema_context("sp_acme"):
        recipient = Recipient.objects.get()
    assert recipient.findings == [{"check": "check", "points": 1.5, "text": "why"}]
    assert (recipient.action, recipient.category, recipient.score, recipient.reply) == (
        "deliver",
        "clean",
        1.5,
        "250 Ok",
    )


def test_messages_that_come_together_share_a_transaction():
    filings = [make_filing() for _ in range(50)]
    assert run(*filings) == [True] * 50
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT xmin::text) FROM sp_acme.quarantine_message")
        assert cursor.fetchone() == (1,)


def test_a_poison_record_fails_alone():
    poison = replace(make_filing(), size=2**40)
    assert run(make_filing(), poison, make_filing()) == [True, False, True]
    assert count() == (2, 2, 2, 2, 2)


def test_a_mailbox_that_is_gone_fails_alone():
    """Its foreign key is checked at the very end: at COMMIT."""
    filing = make_filing()
    gone = replace(filing, outcomes=(replace(filing.outcomes[0], mailbox_id=999_999),))
    assert run(make_filing(), gone) == [True, False]
    assert count() == (1, 1, 1, 1, 1)


def test_a_message_of_two_providers_is_stored_in_both_or_in_none():
    filing, other = make_filing(), make_filing()
    with schema_context("sp_globex"):
        gus = Mailbox.objects.get(address="gus@gamma.test")
    elsewhere = replace(
        filing,
        schema="sp_globex",
        outcomes=(replace(filing.outcomes[0], address=gus.address, mailbox_id=gus.pk, domain_id=gus.domain_id),),
    )

    async def work() -> None:
        async with open_store() as store:
            await store.keep(filing, elsewhere)
            with pytest.raises(StoreUnavailableError):
                await store.keep(other, replace(elsewhere, schema="sp_gone"))

    asyncio.run(work())
    assert count() == (1, 1, 1, 1, 2)
    with schema_context("sp_globex"):
        assert Recipient.objects.get().address == "gus@gamma.test"


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "\udfff" * 400, "x" * 2000, "ä\U0001f600" * 600])
def test_whatever_a_message_says_can_be_stored(text):
    evidence = Evidence(
        ptr=PtrEvidence(PtrStatus.MISMATCH, text),
        content=ContentEvidence(header_from=text, subject=text, message_id=text, problems=(text,)),
    )
    filing = replace(with_sender(text), evidence=evidence)
    verdict = replace(VERDICT, findings=(Finding("check", 1.0, text),))
    outcome = replace(filing.outcomes[0], address=text, verdict=verdict, reply=text, text=text)
    assert run(replace(filing, outcomes=(outcome,))) == [True]
    with schema_context("sp_acme"):
        message, recipient = Message.objects.get(), Recipient.objects.get()
    assert message.subject == clean(text, 500)
    assert message.sender == clean(text, 320)
    assert Evidence.from_json(message.evidence).content.subject == clean(text, 2000)
    assert recipient.findings[0]["text"] == clean(text, 2000)


def test_who_leaves_before_the_commit_leaves_nothing():
    async def work() -> None:
        async with open_store() as store:
            waiting = [asyncio.create_task(store.keep(make_filing_later)) for make_filing_later in filings]
            await asyncio.sleep(0)
            waiting[1].cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    filings = [with_sender(f"{n}@sender.test") for n in range(3)]
    asyncio.run(work())
    with schema_context("sp_acme"):
        assert sorted(Message.objects.values_list("sender", flat=True)) == ["0@sender.test", "2@sender.test"]


def test_who_leaves_during_the_commit_leaves_the_message():
    """A lock holds the commit up while the session ends."""

    async def work() -> None:
        async with open_store() as store:
            async with await psycopg.AsyncConnection.connect(get_conninfo()) as blocker:
                await blocker.execute("LOCK sp_acme.quarantine_message IN EXCLUSIVE MODE")
                task = asyncio.create_task(store.keep(filing))
                while not await is_blocked():  # noqa: ASYNC110 - nothing says when
                    await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await store.keep(last)

    filing, last = make_filing(), make_filing()
    asyncio.run(work())
    assert count() == (2, 2, 2, 2, 2)


def test_a_database_that_says_nothing_is_not_waited_for(monkeypatch):
    """A lock stands for a server that hangs; senders are told, and custody goes on when it is over."""
    monkeypatch.setattr("quarantine.store.COMMIT_SECONDS", 1)

    async def work() -> list[list[bool]]:
        async with open_store(statement_seconds=0.2) as store:
            async with await psycopg.AsyncConnection.connect(get_conninfo()) as blocker:
                await blocker.execute("LOCK sp_acme.quarantine_message IN EXCLUSIVE MODE")
                results = [await keep_all(store, filings[0])]
            monkeypatch.undo()
            while store.is_closed:  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0.01)
            return [*results, await keep_all(store, filings[1])]

    filings = [make_filing(), make_filing()]
    assert asyncio.run(work()) == [[False], [True]]
    assert count() == (1, 1, 1, 1, 1)


def test_a_connection_that_breaks_is_replaced():
    async def work() -> list[list[bool]]:
        async with open_store() as store:
            results = [await keep_all(store, filings[0])]
            async with await psycopg.AsyncConnection.connect(get_conninfo(), autocommit=True) as admin:
                await admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE application_name = 'lazaret-test'"
                )
            results += [await keep_all(store, filings[1])]
            return results

    filings = [make_filing(), make_filing()]
    assert asyncio.run(work()) == [[True], [True]]
    assert count() == (2, 2, 2, 2, 2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("lazaret_take_receipt", "bytea, text, double precision"), ("lazaret_queue_mail", "text, bigint, bigint")],
)
def test_a_database_that_is_not_prepared_for_this_version_is_not_written_to(name, arguments):
    """New gateways, old tables: what they write would fail, and what they note would be lost."""

    async def start() -> None:
        pool = make_pool(name="test", max_size=1)
        await pool.open()
        try:
            with pytest.raises(psycopg.errors.UndefinedFunction):
                await Store(pool).start()
        finally:
            await pool.close()

    with psycopg.connect(get_conninfo(), autocommit=True) as database:
        database.execute(f"ALTER FUNCTION public.{name}({arguments}) RENAME TO not_yet")
        try:
            asyncio.run(start())
        finally:
            database.execute(f"ALTER FUNCTION public.not_yet({arguments}) RENAME TO {name}")


def test_a_database_that_would_lose_mail_is_refused():
    async def work() -> None:
        pool = make_pool(name="test", max_size=1)
        await pool.open()
        try:
            with pytest.raises(DurabilityError, match="synchronous_commit is off"):
                await Store(pool).start()
        finally:
            await pool.close()

    def set_commit(value: str) -> None:
        with connection.cursor() as cursor:
            name = connection.settings_dict["NAME"]
            cursor.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {value}')

    set_commit("off")
    try:
        asyncio.run(work())
    finally:
        set_commit("on")
    assert MailDomain.objects.exists()


def test_trace_ids_sort_by_time_and_can_be_read_aloud():
    ids = [make_trace_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(len(one) == 20 and not set(one) & set("ILOU") for one in ids)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"receipt": b"f" * 32}, id="one"),
        pytest.param({"receipt": b"f" * 32, "outcomes": ()}, id="many"),
        pytest.param({}, id="without receipt"),
        pytest.param({"sha256": None, "stored": None}, id="refused"),
    ],
)
def test_a_vacuum_of_what_all_providers_share_costs_no_provider_its_plan(changes):
    """The queue and the receipts are vacuumed each minute: PostgreSQL makes all plans that name them anew."""
    query, _ = make_statement(make_filing(**changes))
    with psycopg.connect(get_conninfo(), autocommit=True) as database:
        cursor = psycopg.RawCursor(database)
        cursor.execute(b"EXPLAIN (FORMAT JSON, GENERIC_PLAN, VERBOSE) " + query.text)
        plan = str(cursor.fetchone())
    assert "'Relation Name': 'quarantine_message'" in plan
    assert "'Schema': 'public'" not in plan


def test_what_the_courier_reads_goes_by_an_index_while_the_table_is_small():
    """A plan is kept: one that went through all of a new, small table would still do so when it has grown."""

    async def explain() -> str:
        pool = make_pool(name="test", max_size=1)
        await pool.open()
        try:
            async with pool.connection() as database:
                await database.execute("ANALYZE sp_acme.quarantine_recipient, sp_acme.quarantine_message")
                query = in_schema(LOAD, "sp_acme")
                values = {"ids": [1, 2], "small": SMALL, "few": FEW}
                plan = await replace(query, text=b"EXPLAIN " + query.text).execute(database, values)
                return "\n".join(line for (line,) in await plan.fetchall())
        finally:
            await pool.close()

    plan = asyncio.run(explain())

    assert "Index Scan" in plan
    assert "Seq Scan" not in plan
