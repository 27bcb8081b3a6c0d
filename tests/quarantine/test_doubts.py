"""A commit that was not answered: the sender comes again when it likes, and its message is stored once."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db.models import F, Q
from django_tenants.utils import schema_context

from portal.tenants.database import get_conninfo
from quarantine import retention
from quarantine.activity import count_by_hour
from quarantine.gateway.limits import Limits
from quarantine.models import Event, Message, Recipient, State
from quarantine.outcomes import name_event
from quarantine.platform.models import Receipt
from quarantine.records import UNHEARD, Filing, Said
from quarantine.store import Store, StoreUnavailableError
from quarantine.trace_id import make_trace_id
from tests.quarantine.filings import count, is_blocked, keep_all, make_filing, open_store
from tests.quarantine.gateways import RunningGateway, run_gateway
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import MAIL, RCPT, TEMPORARY
from tests.quarantine.test_store_outage import wait_until
from tests.running_courier import wait_until as wait_for

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch) -> None:
    monkeypatch.setattr("quarantine.store.PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("quarantine.store.IDLE_SECONDS", 0.05)


def make_same() -> Filing:
    """Each time it is sent, with a trace id of its own."""
    return make_filing(receipt=b"f" * 32)


def pass_time(minutes: float) -> None:
    """The rules of retention are applied at the end of it."""
    Receipt.objects.update(at=F("at") - timedelta(minutes=minutes))
    retention.forget_platforms()


@contextmanager
def connection_lost(monkeypatch, when: str):
    """Before or after PostgreSQL has committed."""
    commit = Store._commit

    async def commit_and_lose(self, batch):
        if when == "after":
            await commit(self, batch)
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_commit", commit_and_lose)
        yield


def put_off(monkeypatch, filing: Filing, when: str) -> None:
    """The sender is told to come again; then the connection to PostgreSQL is a good one."""

    async def work() -> None:
        async with open_store() as store:
            with connection_lost(monkeypatch, when):
                assert await keep_all(store, filing) == [False]
            await wait_until(lambda: not store.is_closed)

    asyncio.run(work())


def keep(*filings: Filing) -> list[str | None]:
    """Each by a gateway of its own, all at the same time."""

    async def keep_one(filing: Filing) -> str | None:
        async with open_store() as store:
            return await store.keep(filing)

    async def work() -> list[str | None]:
        return await asyncio.gather(*map(keep_one, filings))

    return asyncio.run(work())


@pytest.mark.parametrize("minutes", [30, 150, 1430])
def test_a_message_that_was_stored_without_our_knowing_is_known_when_it_comes_again(monkeypatch, minutes):
    first = make_same()
    put_off(monkeypatch, first, "after")
    pass_time(minutes)
    assert keep(make_same(), make_same()) == [first.transaction.trace_id] * 2
    assert count() == (1, 1, 1, 3, 1)


def send(gateway: RunningGateway) -> str:
    client = gateway.open()
    try:
        return client.mail(data=CLEAN)
    finally:
        client.close()


def count_by_kind() -> dict[tuple[str, str, str], int]:
    """As Activity shows it."""
    now = datetime.now(UTC)
    counts = count_by_hour(~Q(kind="dns"), since=now - timedelta(hours=2), until=now)
    return {(one.schema, one.kind, one.cause): one.number for one in counts}


def list_events() -> list[tuple[str, str]]:
    with schema_context("sp_acme"):
        return list(Event.objects.order_by("id").values_list("kind", "text"))


def test_the_client_is_told_to_come_again_and_then_the_first_trace_id(monkeypatch):
    """The record that its mail was put off harms neither the message nor the receipt, and says what it was told."""
    with run_gateway() as gateway:
        with connection_lost(monkeypatch, "after"):
            assert send(gateway) == TEMPORARY
        wait_for(lambda: not gateway.gateway.store.is_closed)
        gateway.settle()
        wait_for(lambda: count_by_kind() == {("sp_acme", "accepted", ""): 1})
        pass_time(30)
        with schema_context("sp_acme"):
            first = Message.objects.get()
        assert first.replies[-1] == ["end of data", f"{TEMPORARY} (trace {first.trace_id})"]
        assert send(gateway) == f"250 2.0.0 Ok: kept as {first.trace_id}"
        wait_for(lambda: count_by_kind() == {("sp_acme", "accepted", ""): 1, ("sp_acme", "repeated", "sent_again"): 1})
    with schema_context("sp_acme"):
        assert Message.objects.get().size == first.size > 0
        recipient = Recipient.objects.get()
        assert recipient.state == "delivering"
        assert [name_event(event, recipient) for event in Event.objects.order_by("id")] == [
            *("Taken, to be delivered", "Told to try again", "Sent again by the sender's mail server")
        ]
    assert list_events()[1] == ("deferred", f"{TEMPORARY} (trace {first.trace_id}) [{UNHEARD}]")


def test_each_provider_has_on_record_once_what_was_told(monkeypatch):
    """One of them only a recipient that was put off before, which was stored with the message."""
    with run_gateway(limits=Limits(recipients=1)) as gateway:
        client = gateway.open()
        client.talk(MAIL, RCPT)
        assert client.ask("RCPT TO:<gus@gamma.test>").startswith("452 ")
        client.ask("DATA")
        with connection_lost(monkeypatch, "after"):
            assert client.send_data(CLEAN) == TEMPORARY
        client.close()
        wait_for(lambda: not gateway.gateway.store.is_closed)
        gateway.settle()
        expected = {("sp_acme", "accepted", ""): 1, ("sp_globex", "deferred", "too_many_recipients"): 1}
        wait_for(lambda: count_by_kind() == expected)
    for schema, state in (("sp_acme", "delivering"), ("sp_globex", "unfinished")):
        with schema_context(schema):
            assert Message.objects.get().replies[-1][1].startswith(TEMPORARY)
            assert Recipient.objects.get().state == state


def make_late(*addresses: str) -> tuple[Filing, Filing]:
    """A message whose commit hangs, and the note that it was put off."""

    def tell(filing: Filing, reply: str) -> Filing:
        return replace(filing, transaction=replace(filing.transaction, said=(Said("", "end of data", reply),)))

    message = make_same()
    outcomes = tuple(replace(message.outcomes[0], address=address) for address in addresses)
    message = tell(replace(message, outcomes=outcomes), "250 2.0.0 Ok")
    unfinished = tuple(replace(one, state=State.UNFINISHED, event="deferred", reply=TEMPORARY) for one in outcomes)
    return message, replace(tell(message, TEMPORARY), outcomes=unfinished, sha256=None, stored=None, receipt=None)


def test_a_message_that_is_written_after_the_note_that_it_was_put_off_is_not_taken():
    message, note = make_late("bob@alpha.test")
    assert keep(note) == [None]
    with pytest.raises(StoreUnavailableError):
        keep(message)
    again = replace(message, transaction=replace(message.transaction, trace_id=make_trace_id()))
    assert keep(again) == [None]
    assert count()[0] == 2
    assert [kind for kind, _ in list_events()] == ["deferred", "accepted"]


def test_a_commit_that_ends_after_the_note_of_it_does_not_say_that_the_client_had_a_250():
    message, note = make_late("bob@alpha.test", "carol@alpha.test")
    assert keep(note) == keep(message) == [None]
    with schema_context("sp_acme"):
        assert Message.objects.get().replies == [["end of data", TEMPORARY]]
        assert Message.objects.get().size == message.size
    assert count()[2] == 1
    assert [kind for kind, _ in list_events()] == ["deferred", "deferred", "accepted", "accepted"]


def test_a_note_that_is_written_twice_is_there_once(monkeypatch):
    """Nobody knows whether it was: that it was written before is no message."""
    unfinished = replace(make_same().outcomes[0], state=State.UNFINISHED, event="deferred", reply=TEMPORARY)
    note = replace(
        make_same(),
        outcomes=(unfinished,),
        sha256=None,
        stored=None,
        receipt=None,
        transaction=replace(make_same().transaction, said=(Said("", "end of data", TEMPORARY),)),
    )

    async def work() -> None:
        async with open_store() as store:
            with connection_lost(monkeypatch, "after"):
                store.note(note)
                await wait_until(lambda: bool(store._doubts) or store.is_closed)
            await wait_until(lambda: not store.is_closed and not store.notes)

    asyncio.run(work())
    assert [kind for kind, _ in list_events()] == ["deferred"]
    assert count_by_kind() == {("sp_acme", "deferred", ""): 1}
    with schema_context("sp_acme"):
        assert Recipient.objects.count() == 1


def test_once_its_sender_has_its_answer_it_is_known_for_ten_minutes_as_any_other(monkeypatch):
    first = make_same()
    put_off(monkeypatch, first, "after")
    pass_time(30)
    assert keep(make_same()) == [first.transaction.trace_id]
    pass_time(9)
    assert keep(make_same()) == [first.transaction.trace_id]
    pass_time(2)
    assert keep(make_same()) == [None]
    assert count()[:3] == (2, 2, 2)


def test_a_message_that_was_not_stored_is_new_when_it_comes_again(monkeypatch):
    put_off(monkeypatch, make_same(), "before")
    assert not Receipt.objects.exists()
    again = make_same()
    assert keep(again) == [None]
    pass_time(11)
    assert keep(make_same()) == [None]
    assert count()[:3] == (2, 2, 2)


def test_a_message_that_came_again_at_once_is_not_known_for_longer(monkeypatch):
    """The second look finds the receipt of what was sent again."""
    monkeypatch.setattr("quarantine.doubts.LOOK_AGAIN_SECONDS", 0.5)

    async def work() -> None:
        async with open_store() as store:
            with connection_lost(monkeypatch, "before"):
                assert await keep_all(store, make_one) == [False]
            await wait_until(lambda: not store.is_closed)
            assert await store.keep(again) is None
            await wait_until(lambda: not store._doubts)

    make_one, again = make_same(), make_same()
    asyncio.run(work())
    assert Receipt.objects.get().trace_id == again.transaction.trace_id
    assert Receipt.objects.get().at < datetime.now(UTC)


def test_a_commit_that_ends_after_we_gave_it_up_is_found_by_the_second_look(monkeypatch):
    """PostgreSQL hung: it goes on with what it was doing when it has answered others already."""
    monkeypatch.setattr("quarantine.doubts.LOOK_AGAIN_SECONDS", 0.5)
    abandoned: list[asyncio.Task] = []

    async def give_up(seconds: float, work):
        abandoned.append(asyncio.create_task(work))
        while not await is_blocked():  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0.01)
        raise TimeoutError

    async def work() -> None:
        async with open_store() as store:
            await wait_until(lambda: not store._is_suspected)
            async with await psycopg.AsyncConnection.connect(get_conninfo()) as blocker:
                await blocker.execute("LOCK sp_acme.quarantine_message IN EXCLUSIVE MODE")
                with monkeypatch.context() as patch:
                    patch.setattr(store, "_finish", give_up)
                    with pytest.raises(StoreUnavailableError):
                        await store.keep(first)
                await wait_until(lambda: not store.is_closed)
                assert len(store._doubts) == 1
            await asyncio.gather(*abandoned)
            await wait_until(lambda: not store._doubts)

    first = make_same()
    asyncio.run(work())
    assert count()[0] == 1
    pass_time(30)
    assert keep(make_same()) == [first.transaction.trace_id]
    assert count()[0] == 1


def test_a_gateway_that_is_stopped_meanwhile_sees_to_it_first(monkeypatch):
    monkeypatch.setattr("quarantine.store.PAUSE_SECONDS", 60)

    async def work() -> None:
        async with open_store() as store:
            with connection_lost(monkeypatch, "after"):
                assert await keep_all(store, first) == [False]

    first = make_same()
    asyncio.run(work())
    pass_time(30)
    assert keep(make_same()) == [first.transaction.trace_id]


def test_what_could_not_be_seen_to_before_the_stop_is_in_the_log(monkeypatch, caplog):
    monkeypatch.setattr("quarantine.store.PAUSE_SECONDS", 60)

    async def fail(self) -> None:
        raise psycopg.OperationalError

    async def work() -> None:
        async with open_store() as store:
            with connection_lost(monkeypatch, "after"):
                assert await keep_all(store, make_one) == [False]
            monkeypatch.setattr(Store, "_try_to_write", fail)

    make_one = make_same()
    asyncio.run(work())
    assert "doubts_lost number=1 error=OperationalError" in caplog.text
