"""What the store counts of what it keeps, and the notes of what reached nobody."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from django.db.models import Sum
from django_tenants.utils import schema_context

from filtering.evidence import NOT_KNOWN_YET, PtrEvidence, PtrStatus
from portal.tenants.database import get_conninfo
from quarantine.causes import Cause
from quarantine.models import Message, Recipient, State
from quarantine.platform.models import HourlyCount
from quarantine.platform.models import Unrouted as UnroutedRow
from quarantine.records import Said, Transaction, Unrouted
from quarantine.store import Store
from quarantine.trace_id import make_trace_id
from tests.quarantine.filings import RAW, count, keep_all, make_filing, open_store, run

pytestmark = pytest.mark.usefixtures("committed")


def list_counts() -> dict[tuple[str, str, str], int]:
    rows = HourlyCount.objects.values_list("schema", "kind", "cause").annotate(total=Sum("count"))
    return {(schema, kind, cause): total for schema, kind, cause, total in rows}


def make_unrouted(**changes) -> Unrouted:
    transaction = Transaction(make_trace_id(), datetime.now(UTC), "192.0.2.1", "", said=(Said("", "EHLO", "250 hi"),))
    return replace(Unrouted(transaction, "", "421 4.7.0 no", Cause.NOT_SMTP, times=3), **changes)


def test_what_is_kept_is_counted_in_the_same_transaction():
    refused = replace(make_filing().outcomes[0], event="refused", cause=Cause.NO_MAILBOX, state=State.REFUSED)
    poison = replace(make_filing(), size=2**40)
    again = [make_filing(receipt=b"f" * 32) for _ in range(2)]
    assert run(make_filing(), make_filing(outcomes=(refused,)), poison, *again) == [True, True, False, True, True]
    assert list_counts() == {
        ("sp_acme", "accepted", ""): 2,
        ("sp_acme", "refused", "no_mailbox"): 1,
        ("sp_acme", "repeated", "sent_again"): 1,
    }


@pytest.mark.parametrize(
    ("ptr", "counted"),
    [
        (
            PtrEvidence(PtrStatus.UNKNOWN, detail="forward look-up: SERVFAIL"),
            {("sp_acme", "dns_failed", "servfail"): 1},
        ),
        (
            PtrEvidence(PtrStatus.UNKNOWN, detail="NXDOMAIN; the rule is off"),
            {("sp_acme", "dns_failed", "nxdomain"): 1},
        ),
        (PtrEvidence(PtrStatus.MISMATCH, "a.test"), {}),
        (NOT_KNOWN_YET, {}),  # nobody waited for it
    ],
)
def test_mail_whose_servers_name_could_not_be_looked_up_is_counted_once(ptr, counted):
    twice = [make_filing(receipt=b"f" * 32) for _ in range(2)]
    assert run(*(replace(one, transaction=replace(one.transaction, ptr=ptr)) for one in twice)) == [True, True]
    told = {key: number for key, number in list_counts().items() if number}
    assert told == counted | {("sp_acme", "accepted", ""): 1, ("sp_acme", "repeated", "sent_again"): 1}


def test_notes_are_written_soon_and_counted():
    async def work() -> None:
        async with open_store() as store:
            store.note(make_unrouted())
            store.count("dns", "servfail", 7)
            while not await count_unrouted():  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0.05)
            store.note(make_unrouted())

    asyncio.run(work())
    rows = list(UnroutedRow.objects.values_list("cause", "times", "replies"))
    assert rows == [("not_smtp", 3, [["EHLO", "250 hi"]])] * 2  # the last one at the stop
    assert list_counts() == {("", "refused", "not_smtp"): 6, ("", "dns", "servfail"): 7}


async def count_unrouted() -> int:
    async with await psycopg.AsyncConnection.connect(get_conninfo(), autocommit=True) as watcher:
        row = await (await watcher.execute("SELECT count(*) FROM public.platform_unrouted")).fetchone()
    return row[0] if row else 0


def test_a_note_never_harms_a_message_that_was_stored_all_the_same():
    """The answer to a commit was lost: we say 451 and note that the mail was put off."""
    filing = make_filing()
    put_off = replace(filing.outcomes[0], state=State.UNFINISHED, event="deferred", cause=Cause.UNAVAILABLE)
    assert run(filing, replace(filing, outcomes=(put_off,), size=0, sha256=None, stored=None)) == [True, True]
    assert count() == (1, 1, 1, 1, 1)
    with schema_context("sp_acme"):
        message = Message.objects.get()
        assert (message.size, bytes(message.sha256)) == (len(RAW), b"x" * 32)
        assert Recipient.objects.get().state == "delivering"


def test_notes_outlast_a_database_that_is_away(monkeypatch):
    monkeypatch.setattr("quarantine.store.PAUSE_SECONDS", 0.05)

    async def fail(self, batch):
        raise psycopg.OperationalError

    async def work() -> None:
        async with open_store() as store:
            with monkeypatch.context() as patch:
                patch.setattr(Store, "_commit", fail)
                for n in range(250):
                    store.note(make_unrouted(reply=f"421 {n}"))
                assert await keep_all(store, filing) == [False]
            while await count_unrouted() < 250:  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0.05)

    filing = make_filing()
    asyncio.run(work())
    assert list(UnroutedRow.objects.order_by("id").values_list("reply", flat=True)) == [f"421 {n}" for n in range(250)]


def test_a_poison_note_is_dropped_and_the_others_are_written():
    async def work() -> None:
        async with open_store() as store:
            store.note(make_unrouted(times=2**40))
            store.note(make_unrouted())
            while not await count_unrouted():  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0.05)

    asyncio.run(work())
    assert UnroutedRow.objects.count() == 1
