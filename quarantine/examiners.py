"""The threads in which messages are looked at, shared fairly: a client with slow messages waits for itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar, TypeVarTuple, Unpack

from filtering.evidence.addresses import name_client

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREADS = 4
STUCK_SECONDS = 60.0  # who works so long on one message will not come back


@dataclass(slots=True, eq=False)
class _Job:
    client: str
    work: Callable[[], Any]
    done: asyncio.Future[Any]
    is_first: bool  # its client had nothing else here when it came
    at: float = field(default_factory=time.monotonic)
    begun_at: float = 0.0


class Examiners:
    """`threads` threads. Clients take turns, and one alone never has the last thread: it is kept for the others.

    The threads are daemons: one that never comes back does not keep the process from ending.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = threads
        self._client_threads = max(threads - 1, 1)
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()  # the next client first
        self._running: set[_Job] = set()
        self._clients: Counter[str] = Counter()  # of what runs
        for number in range(threads):
            threading.Thread(target=self._work, name=f"examiner-{number}", daemon=True).start()

    @property
    def waiting_seconds(self) -> float:
        """How long somebody who sends one message has been waiting for a thread."""
        ages = [queue[0].at for queue in self._waiting.values() if queue[0].is_first]
        return time.monotonic() - min(ages) if ages else 0.0

    def get_waiting_seconds(self, client: str) -> float:
        """How long the oldest message of this client has been waiting for a thread."""
        queue = self._waiting.get(name_client(client))
        return time.monotonic() - queue[0].at if queue else 0.0

    @property
    def are_stuck(self) -> bool:
        """No thread has come back for a minute."""
        limit = time.monotonic() - STUCK_SECONDS
        return len([job for job in self._running if job.begun_at < limit]) >= self._threads

    async def run(self, client: str, function: Callable[[Unpack[Ts]], T], *arguments: *Ts) -> T:
        """The function's result, from a thread. Cancelled while it waits, it is not run."""
        loop, client = asyncio.get_running_loop(), name_client(client)
        is_first = client not in self._waiting and not self._clients[client]
        job = _Job(client, lambda: function(*arguments), loop.create_future(), is_first)
        self._waiting.setdefault(client, deque()).append(job)
        self._hand_out()
        try:
            return await job.done  # type: ignore[no-any-return]
        finally:
            self._give_up(job)

    def close(self) -> None:
        for _ in range(self._threads):
            self._queue.put(None)

    def _hand_out(self) -> None:
        while len(self._running) < self._threads:
            client = next((one for one in self._waiting if self._clients[one] < self._client_threads), None)
            if client is None:
                return
            queue = self._waiting.pop(client)
            job = queue.popleft()
            if queue:
                self._waiting[client] = queue  # behind the others
            job.begun_at = time.monotonic()
            self._running.add(job)
            self._clients[client] += 1
            self._queue.put(job)

    def _give_up(self, job: _Job) -> None:
        """Its session has gone: where it has not begun, it need not."""
        queue = self._waiting.get(job.client)
        if queue and job in queue:
            queue.remove(job)
            if not queue:
                del self._waiting[job.client]

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._running.discard(job)
        self._clients[job.client] -= 1
        if not self._clients[job.client]:
            del self._clients[job.client]
        if not job.done.done():
            if error:
                job.done.set_exception(error)
            else:
                job.done.set_result(result)
        self._hand_out()

    def _work(self) -> None:
        while job := self._queue.get():
            result, error = None, None
            try:
                result = job.work()
            except Exception as raised:  # noqa: BLE001 - it is raised where it is waited for
                error = raised
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                job.done.get_loop().call_soon_threadsafe(self._finish, job, result, error)
            del job, result, error  # not kept until the next one comes
