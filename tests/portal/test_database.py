"""The asyncio processes' ways with PostgreSQL: tasks that are ended."""

import asyncio

from portal.tenants.database import end_all


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
