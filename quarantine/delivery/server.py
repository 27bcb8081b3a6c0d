"""What the courier knows of a customer's server: whether it is up, and whose turn it is."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

FIRST_PROBE_SECONDS = 30.0
LONGEST_PROBE_SECONDS = 300.0  # a server that is back is noticed after five minutes at the latest
PLAIN_SECONDS = 3600.0  # for so long a broken STARTTLS is not tried again
DOT_SECONDS = 0.01
PROGRESS_SECONDS = 120.0  # since it last answered a transaction: until then it is trusted with many


class DotGate:
    """Lets one final dot at a time wait for its answer, for 10 milliseconds; then the next may go as well.

    Whatever a killed courier had dotted is delivered again. So a server that answers at once gets one after the
    other, which costs nothing, and a kill doubles one message; a slow one gets many, and still a hundred a second.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        await self.lock.acquire()
        waiting = [self.lock]

        def let_next() -> None:
            if waiting:
                waiting.pop().release()

        opener = asyncio.get_running_loop().call_later(DOT_SECONDS, let_next)
        try:
            yield
        finally:
            opener.cancel()
            let_next()


class Server:
    """A host and port, for all lanes and domains that deliver there. Times are of the monotonic clock, in seconds."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.domains: set[int] = set()
        self.gate = DotGate()
        self.down = ""  # why
        self.failures = 0
        self.probe_at = 0.0
        self.probing = False
        self.alive_at = float("-inf")
        self.progress_at = float("-inf")
        self.lost = 0  # transactions, since then
        self.plain_until = float("-inf")
        self.avoid = ""  # the address that broke off last: the others are asked first

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def is_blocked(self) -> bool:
        """Down, and it is not time (or it is somebody else's turn) to see whether it is back."""
        return bool(self.down) and (self.probing or time.monotonic() < self.probe_at)

    def note_end(self, address: str, *, good: bool) -> None:
        """A transaction with one of its addresses is over; not good: the connection with it."""
        if not good:
            self.avoid = address
        elif self.avoid == address:
            self.avoid = ""

    def explain_wait(self) -> str:
        """When it is asked again, for whoever waits because it is down."""
        if self.probing:
            return "being asked now whether it is back"
        return f"asked again in {max(self.probe_at - time.monotonic(), 0):.0f} s"

    def note_down(self, reason: str) -> float:
        """It could not be reached; returns in how many seconds it is tried again. Counts once a probe."""
        now = time.monotonic()
        if not self.down or now >= self.probe_at:
            self.probe_at = now + self.get_pause() * random.uniform(0.9, 1.1)  # noqa: S311
            self.failures += 1
        self.down = reason
        return max(self.probe_at - now, 0.0)

    def get_pause(self) -> float:
        return min(FIRST_PROBE_SECONDS * 2.0 ** min(self.failures, 10), LONGEST_PROBE_SECONDS)

    @property
    def is_steady(self) -> bool:
        """It has answered a transaction of late. One that only greets us is not trusted with much."""
        return time.monotonic() - self.progress_at < PROGRESS_SECONDS

    def note_progress(self) -> None:
        """It answered a transaction, whatever the answer was."""
        self.progress_at, self.lost = time.monotonic(), 0

    def note_alive(self) -> bool:
        """It talks to us; True when it was down before."""
        was_down, self.down, self.failures = bool(self.down), "", 0
        self.alive_at = time.monotonic()
        return was_down
