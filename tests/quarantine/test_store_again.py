"""A message that is sent again within ten minutes is kept once, under its first id."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from django_tenants.utils import schema_context

from portal.tenants.database import get_conninfo
from quarantine.models import Event
from tests.quarantine.filings import count, make_filing, open_store

pytestmark = pytest.mark.usefixtures("committed")


def test_the_same_message_within_ten_minutes_is_kept_once_and_found_under_its_first_id():
    first, again, other = (make_filing(receipt=letter * 32) for letter in (b"f", b"f", b"g"))

    async def work() -> list[str | None]:
        async with open_store() as store:
            return [await store.keep(filing) for filing in (first, again, other)]

    assert asyncio.run(work()) == [None, first.transaction.trace_id, None]
    assert count() == (2, 2, 2, 3, 2)
    with schema_context("sp_acme"):
        events = Event.objects.filter(message__trace_id=first.transaction.trace_id).order_by("id")
        assert list(events.values_list("kind", flat=True)) == ["accepted", "sent_again"]


def test_the_same_message_twice_in_one_commit_is_kept_once():
    filings = [make_filing(receipt=b"f" * 32) for _ in range(5)]

    async def work() -> list[str | None]:
        async with open_store() as store:
            return await asyncio.gather(*(store.keep(filing) for filing in filings))

    assert asyncio.run(work()) == [None, *[filings[0].transaction.trace_id] * 4]
    assert count() == (1, 1, 1, 5, 1)


def test_two_gateways_that_get_the_same_message_keep_it_once():
    plan = [[make_filing(receipt=bytes([n]) * 32) for n in order] for _ in range(10) for order in ((1, 2), (2, 1))]

    async def work() -> list[str | None]:
        async with open_store() as one, open_store() as other:
            keeping = [store.keep(*pair) for pair, store in zip(plan, [one, other] * 10, strict=True)]
            return await asyncio.gather(*keeping)

    answers = asyncio.run(work())
    assert count()[:3] == (2, 2, 2)
    assert len([answer for answer in answers if answer is None]) == 1


def test_a_message_that_comes_again_after_ten_minutes_is_a_new_one(monkeypatch):
    filings = [make_filing(receipt=b"f" * 32), make_filing(receipt=b"f" * 32)]

    async def work() -> list[str | None]:
        async with open_store() as store:
            first = await store.keep(filings[0])
            async with await psycopg.AsyncConnection.connect(get_conninfo(), autocommit=True) as admin:
                await admin.execute("UPDATE public.platform_receipt SET at = at - interval '601 seconds'")
            return [first, await store.keep(filings[1])]

    assert asyncio.run(work()) == [None, None]
    assert count() == (2, 2, 2, 2, 2)
