"""The store closes by itself while PostgreSQL cannot store, and opens by itself when it can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg
import pytest
from django_tenants.utils import schema_context

from portal.tenants.database import get_conninfo, is_outage, make_pool
from portal.tenants.people.models import Mailbox
from quarantine.causes import Cause
from quarantine.models import Recipient
from quarantine.records import Filing, Unrouted
from quarantine.store import Store, StoreUnavailableError
from tests.quarantine.filings import count, is_blocked, keep_all, make_filing

pytestmark = pytest.mark.usefixtures("committed")


@asynccontextmanager
async def open_store(lock_seconds: float = 0, connections: int = 3):
    pool = make_pool(name="test", max_size=connections, lock_seconds=lock_seconds)
    await pool.open()
    store = Store(pool)
    await store.start()
    try:
        yield store, pool
    finally:
        await store.close()
        await pool.close()


@asynccontextmanager
async def lock(table: str):
    async with await psycopg.AsyncConnection.connect(get_conninfo()) as blocker:
        await blocker.execute(f"LOCK {table} IN EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def lock_row(table: str, address: str):
    async with await psycopg.AsyncConnection.connect(get_conninfo()) as blocker:
        await blocker.execute(f"SELECT FROM {table} WHERE address = %s FOR UPDATE", [address])
        yield


def spy_on_commits(store: Store) -> list[int]:
    """How many items each transaction has, from now on."""
    commit, sizes = store._commit, []

    async def commit_and_tell(batch):
        sizes.append(len(batch))
        return await commit(batch)

    store._commit = commit_and_tell
    return sizes


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing says when
            await asyncio.sleep(0.02)


def make_elsewhere() -> Filing:
    with schema_context("sp_globex"):
        gus = Mailbox.objects.get(address="gus@gamma.test")
    filing = make_filing()
    outcome = replace(filing.outcomes[0], address=gus.address, mailbox_id=gus.pk, domain_id=gus.domain_id)
    return replace(filing, schema="sp_globex", outcomes=(outcome,))


def test_one_providers_locked_table_holds_up_nobody_else():  # Q15
    async def work() -> None:
        async with open_store(lock_seconds=0.3) as (store, _):
            async with lock("sp_acme.quarantine_message"):
                assert await keep_all(store, locked, *others[:2]) == [False, True, True]
                with pytest.raises(StoreUnavailableError):
                    store.check("sp_acme")
                store.check("sp_globex")
                assert await keep_all(store, locked, others[2]) == [False, True]
                assert not store.is_closed
            await wait_until(lambda: not store._locks.schemas)
            assert await keep_all(store, locked) == [True]

    locked, others = make_filing(), [make_elsewhere() for _ in range(3)]
    asyncio.run(work())
    assert count()[:4] == (1, 1, 1, 1)
    with schema_context("sp_globex"):
        assert Recipient.objects.filter(address="gus@gamma.test").count() == 3


def test_one_locked_row_is_waited_for_once_in_a_while():  # Q15
    async def work() -> None:
        async with open_store(lock_seconds=0.3) as (store, _):
            commits = spy_on_commits(store)
            async with lock_row("sp_acme.people_mailbox", "bob@alpha.test"):
                assert await keep_all(store, *locked, *others[:2]) == [False] * 3 + [True] * 2
                assert commits == [5, 1, 1, 1]  # together, the first that wants the row, and the others
                with pytest.raises(StoreUnavailableError):
                    store.check("sp_acme")
                store.check("sp_globex")
                assert await keep_all(store, locked[0], others[2]) == [False, True]
                assert commits[4:] == [1]
                assert not store.is_closed
            await wait_until(lambda: not store._locks.schemas)
            assert await keep_all(store, *locked) == [True] * 3

    locked, others = [make_filing() for _ in range(3)], [make_elsewhere() for _ in range(3)]
    asyncio.run(work())
    assert count()[:4] == (3, 3, 3, 3)
    with schema_context("sp_globex"):
        assert Recipient.objects.filter(address="gus@gamma.test").count() == 3


def test_a_note_that_wants_a_locked_row_is_written_when_the_lock_is_gone():  # Q15
    async def work() -> None:
        async with open_store(lock_seconds=0.3) as (store, _):
            async with lock_row("sp_acme.people_mailbox", "bob@alpha.test"):
                store.note(noted)
                await wait_until(lambda: "sp_acme" in store._locks.schemas)
                assert store.notes == 1
            await wait_until(lambda: not store.notes)

    noted = make_filing()
    asyncio.run(work())
    assert count()[0] == 1


def test_a_note_about_a_locked_provider_is_written_when_the_lock_is_gone():  # Q15
    async def work() -> None:
        async with open_store(lock_seconds=0.3) as (store, _):
            async with lock("sp_acme.quarantine_message"):
                assert await keep_all(store, make_one) == [False]
                store.note(noted)
                await asyncio.sleep(1)
            await wait_until(lambda: not store._locks.schemas)
            await wait_until(lambda: not store._notes and not store._batch)

    make_one, noted = make_filing(), make_filing()
    asyncio.run(work())
    assert count()[0] == 1


def test_notes_that_a_lock_outlives_are_told_of_when_we_stop(caplog):
    async def work() -> None:
        async with lock("sp_acme.quarantine_message"), open_store(lock_seconds=0.3) as (store, _):
            assert await keep_all(store, filing) == [False]
            store.note(filing, filing)

    filing = make_filing()
    asyncio.run(work())
    assert "notes_lost number=2" in caplog.text
    assert count()[0] == 0


def test_a_fault_of_ours_fails_its_batch_and_the_writer_goes_on(monkeypatch, caplog):
    async def work() -> None:
        async with open_store() as (store, _):
            await wait_until(lambda: not store._is_suspected)
            write = store._write

            async def fail_once(batch):
                monkeypatch.setattr(store, "_write", write)
                raise RuntimeError("of what the mail says")

            monkeypatch.setattr(store, "_write", fail_once)
            assert await keep_all(store, *filings) == [False, False]
            assert await keep_all(store, *filings) == [True, True]

    filings = [make_filing(), make_filing()]
    asyncio.run(work())
    assert count()[:2] == (2, 2)
    assert "store_writer_fault error=RuntimeError" in caplog.text
    assert "of what the mail says" not in caplog.text


def test_a_look_at_locks_that_fails_ends_neither_the_look_nor_the_watch(monkeypatch):
    async def work() -> None:
        async with open_store(lock_seconds=0.3) as (store, _):
            async with lock("sp_acme.quarantine_message"):
                assert await keep_all(store, filing) == [False]
                monkeypatch.setattr("quarantine.locks._is_locked", raise_fault)
                await wait_until(lambda: not store._locks.schemas)
                monkeypatch.undo()
                assert await keep_all(store, filing) == [False]
                assert store._locks.schemas == {"sp_acme"}
            await wait_until(lambda: not store._locks.schemas)
            assert await keep_all(store, filing) == [True]

    filing = make_filing()
    asyncio.run(work())


async def raise_fault(*_: object) -> bool:
    raise RuntimeError


def test_a_read_only_database_closes_the_store_until_it_can_be_written_to():  # Q13
    async def work() -> None:
        async with open_store(connections=1) as (store, pool):
            assert await keep_all(store, filings[0]) == [True]
            await set_read_only(pool, "on")
            await wait_until(lambda: store.is_closed)  # without any mail
            assert await keep_all(store, filings[1]) == [False]
            await set_read_only(pool, "off")
            await wait_until(lambda: not store.is_closed)
            assert await keep_all(store, filings[1]) == [True]

    filings = [make_filing(), make_filing()]
    asyncio.run(work())
    assert count()[:2] == (2, 2)


async def set_read_only(pool, value: str) -> None:
    async with pool.connection() as connection:
        await connection.execute(f"SET default_transaction_read_only = {value}")


def test_a_commit_that_hangs_closes_the_store_until_it_ends(monkeypatch):  # Q12
    monkeypatch.setattr("quarantine.store.LATE_SECONDS", 0.2)

    async def work() -> None:
        async with open_store() as (store, _):
            await wait_until(lambda: not store._is_suspected)
            async with lock("sp_acme.quarantine_message"):
                first = asyncio.create_task(store.keep(filings[0]))
                while not await is_blocked():  # noqa: ASYNC110 - nothing says when
                    await asyncio.sleep(0.01)
                second = asyncio.create_task(store.keep(filings[1]))
                await wait_until(lambda: store.is_closed)
                assert store.depth == 1
                assert store.oldest_seconds > 0.1
                with pytest.raises(StoreUnavailableError):
                    await store.keep(filings[2])
            assert await asyncio.gather(first, second) == [None, None]
            assert not store.is_closed
            assert (store.depth, store.oldest_seconds) == (0, 0)

    filings = [make_filing() for _ in range(3)]
    asyncio.run(work())
    assert count()[:2] == (2, 2)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        *((state, True) for state in ("08006", "25006", "53100", "53200", "53300", "57014", "57P01", "57P03", "58030")),
        *((state, False) for state in ("22003", "23503", "40P01", "42P01", "54000", "55P03")),
    ],
)
def test_outages_are_told_from_refusals(state, expected):
    assert is_outage(psycopg.errors.lookup(state)()) == expected


def test_what_has_no_state_is_an_outage_when_it_is_about_the_connection():
    assert all(map(is_outage, (psycopg.OperationalError(), psycopg.InterfaceError(), OSError(), TimeoutError())))
    assert not any(map(is_outage, (psycopg.DataError(), ValueError())))


def test_notes_that_nobody_could_take_are_told_of_when_we_stop(caplog):
    async def fail(*_: object) -> None:
        raise psycopg.OperationalError

    async def work() -> None:
        async with open_store() as (store, _):
            store.note(note, note)
            store.note(note)
            store._commit = fail  # type: ignore[assignment,method-assign]

    note = Unrouted(make_filing().transaction, "you@elsewhere.test", "550 no", Cause.RELAY_DENIED)
    asyncio.run(work())
    assert "notes_lost number=3" in caplog.text
