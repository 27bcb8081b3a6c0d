"""The asyncio processes' ways with PostgreSQL: statements that are kept, tasks that are ended."""

import asyncio

import pytest
from psycopg import AsyncConnection

from portal.tenants.database import Query, end_all, get_conninfo


def test_values_are_named_or_in_order(committed):
    async def ask(text, values):
        async with await AsyncConnection.connect(get_conninfo()) as connection:
            cursor = await Query.from_text(text).execute(connection, values)
            return await cursor.fetchone()

    named = b"SELECT %(word)s::text, %(octets)b, %(word)s::text, %(none)s::int"
    octets = bytes(range(256))
    found = asyncio.run(ask(named, {"octets": octets, "word": "%s", "none": None, "unused": 1}))
    assert found == ("%s", octets, "%s", None)
    assert asyncio.run(ask(b"SELECT %s::int, %s::int[]", [1, [2, 3]])) == (1, [2, 3])


@pytest.mark.parametrize("text", [b"SELECT %s, %(name)s", b"SELECT 'a' LIKE 'a%'", b"SELECT 5 %% 3"])
def test_a_statement_that_would_mean_something_else_is_refused(text):
    with pytest.raises(ValueError, match="two kinds"):
        Query.from_text(text)


def test_a_task_that_loses_a_cancellation_is_ended_all_the_same():
    """As what it waits for comes at the same moment, and Python 3.11 lets it go on."""

    async def wait_twice(event: asyncio.Event) -> None:
        await asyncio.wait_for(event.wait(), 60)
        await asyncio.Event().wait()

    async def fail() -> None:
        raise OSError

    async def main() -> list[object]:
        event = asyncio.Event()
        tasks = [asyncio.create_task(wait_twice(event)), asyncio.create_task(fail())]
        await asyncio.sleep(0.01)
        event.set()
        await asyncio.sleep(0)
        return await asyncio.wait_for(end_all(tasks), 30)

    stopped, failed = asyncio.run(main())
    assert isinstance(stopped, asyncio.CancelledError)
    assert isinstance(failed, OSError)
