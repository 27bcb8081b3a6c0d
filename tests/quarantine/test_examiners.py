"""Threads that are shared: slow messages of one client never hold up another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from quarantine import examiners as module
from quarantine.examiners import Examiners


def run(work: Callable[[Examiners], Awaitable[object]], threads: int = 4) -> object:
    async def begin() -> object:
        examiners = Examiners(threads)
        try:
            async with asyncio.timeout(20):
                return await work(examiners)
        finally:
            examiners.close()

    return asyncio.run(begin())


async def settle(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nothing says when
        await asyncio.sleep(0.005)


def test_a_result_and_an_error_come_back():
    async def work(examiners: Examiners) -> object:
        with pytest.raises(ZeroDivisionError):
            await examiners.run("a", lambda: 1 // 0)
        return await examiners.run("a", divmod, 7, 2)

    assert run(work) == (3, 1)


def test_one_client_with_slow_messages_does_not_delay_another():
    free = threading.Event()

    async def work(examiners: Examiners) -> object:
        slow = [asyncio.create_task(examiners.run(f"2001:db8::{n}", free.wait, 15)) for n in range(50)]  # one network
        await asyncio.sleep(0)
        answers = [await examiners.run(f"other-{n}", str, n) for n in range(20)]
        assert not any(one.done() for one in slow)
        assert examiners.get_waiting_seconds("2001:db8::ffff") > 0
        assert examiners.waiting_seconds == 0  # nobody else waits
        free.set()
        await asyncio.gather(*slow)
        return answers

    assert run(work) == [str(n) for n in range(20)]


def test_clients_take_turns():
    free, order = threading.Event(), []

    async def work(examiners: Examiners) -> object:
        first = asyncio.create_task(examiners.run("x", free.wait, 15))
        await settle(lambda: bool(examiners._running))
        plan = ["a", "a", "a", "b", "c"]
        tasks = [asyncio.create_task(examiners.run(client, order.append, client)) for client in plan]
        await asyncio.sleep(0)
        assert examiners.waiting_seconds > 0
        free.set()
        await asyncio.gather(first, *tasks)
        return order

    assert run(work, threads=1) == ["a", "b", "c", "a", "a"]


def test_who_leaves_while_it_waits_is_not_examined():
    free, seen = threading.Event(), []

    async def work(examiners: Examiners) -> object:
        first = asyncio.create_task(examiners.run("x", free.wait, 15))
        await settle(lambda: bool(examiners._running))
        gone = asyncio.create_task(examiners.run("y", seen.append, 1))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert examiners.get_waiting_seconds("y") == 0
        free.set()
        await first
        await examiners.run("y", seen.append, 2)
        return seen

    assert run(work, threads=1) == [2]


def test_threads_that_never_come_back_are_noticed(monkeypatch):
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.05)
    free = threading.Event()

    async def work(examiners: Examiners) -> object:
        hung = [asyncio.create_task(examiners.run(f"{n}", free.wait, 15)) for n in range(2)]
        await settle(lambda: examiners.are_stuck)
        free.set()
        await asyncio.gather(*hung)
        return examiners.are_stuck

    assert run(work, threads=2) is False
