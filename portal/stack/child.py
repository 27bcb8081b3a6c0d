"""One supervised process: started, restarted with growing pauses when it dies, and ended in an orderly way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from portal.stack.process import Launch, StackError, open_log

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 15.0
INSIST_SECONDS = 10.0
MAX_START_TRIES = 3
STEADY_SECONDS = 20.0  # who lived so long begins again with the shortest pause


class Watcher(Protocol):
    """Who is told what becomes of a child."""

    def event(self, name: str, **values: object) -> None: ...

    def record(self, name: str, pid: int | None) -> None: ...


class Child:
    """A process that is kept running until `stop`. It leads a process group, which ends with it."""

    def __init__(
        self,
        name: str,
        make_launch: Callable[[], Launch],
        watcher: Watcher,
        *,
        stop_seconds: float = 15.0,
        is_ready: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.name = name
        self.make_launch = make_launch
        self.watcher = watcher
        self.stop_seconds = stop_seconds
        self.is_ready = is_ready
        self.process: asyncio.subprocess.Process | None = None
        self.keeper: asyncio.Task[None] | None = None
        self.stopping = False
        self.restarts = 0
        self.log = make_launch().log

    async def start(self) -> None:
        """Start it and keep it running; only the servers are waited for until they answer."""
        await self._spawn()
        self.keeper = asyncio.create_task(self._keep())

    async def wait_ready(self, seconds: float) -> None:
        """Wait until it answers; StackError when it ends or does not answer within `seconds`."""
        assert self.is_ready is not None  # noqa: S101
        deadline = time.monotonic() + seconds
        while not await self.is_ready():
            if self.restarts > MAX_START_TRIES or time.monotonic() > deadline:
                raise StackError(f"{self.name} did not start; see {self.log}.")
            await asyncio.sleep(0.05)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Ask for an orderly end; insist after `stop_seconds`, or at once when `hurry` is set."""
        self.stopping = True
        if self.keeper:
            self.keeper.cancel()
            await asyncio.wait([self.keeper])
        if self.process is not None and self.process.returncode is None:
            launch = self.make_launch()
            self._signal(launch.stop_signal)
            await _wait_any(self.process.wait(), hurry.wait(), seconds=self.stop_seconds)
            if self.process.returncode is None:
                self.watcher.event("child_insisted", part=self.name, pid=self.process.pid)
                self._signal(launch.insist_signal)
                await _wait_any(self.process.wait(), seconds=INSIST_SECONDS)
        self._kill_group()
        if self.process is not None:
            await self.process.wait()
        self.watcher.record(self.name, None)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            started_at = time.monotonic()
            pid, status = await self._wait()
            if self.stopping:
                return
            if time.monotonic() - started_at > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self.watcher.event("child_exited", part=self.name, pid=pid, status=_name(status), restart_seconds=pause)
            self._kill_group()
            await self._respawn(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _respawn(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            self.restarts += 1
            try:
                await self._spawn()
            except OSError as error:  # no memory, no process table entry: later, then
                self.watcher.event("child_not_started", part=self.name, error=type(error).__name__)
                pause = LONGEST_PAUSE_SECONDS
            else:
                self.watcher.event("child_started", part=self.name, pid=self.process.pid if self.process else None)
                return

    async def _wait(self) -> tuple[int, int]:
        assert self.process is not None  # noqa: S101
        return self.process.pid, await self.process.wait()

    async def _spawn(self) -> None:
        launch = self.make_launch()
        with open_log(launch.log) as log:
            self.process = await asyncio.create_subprocess_exec(*launch.command, stdout=log, **launch.options())
        self.watcher.record(self.name, self.process.pid)

    def _signal(self, number: signal.Signals) -> None:
        if self.process:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def _kill_group(self) -> None:
        """End what the process left behind, such as the workers of a master that was killed."""
        if self.process:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


async def run_once(launch: Launch) -> int:
    """Run a program to its end; ended with us when we are cancelled. Returns its exit status."""
    with open_log(launch.log) as log:
        process = await asyncio.create_subprocess_exec(*launch.command, stdout=log, **launch.options())
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _wait_any(*waits: Awaitable[object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else str(status)
