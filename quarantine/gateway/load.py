"""When a gateway process is better left alone: an early 4xx instead of a late one, and rest until it is well again."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from psycopg import Error

from portal.tenants.database import Pool
from quarantine.causes import Cause
from quarantine.examiners import Examiners
from quarantine.gateway import replies
from quarantine.gateway.replies import Reply
from quarantine.store import Store

log = logging.getLogger(__name__)

MEASURE_SECONDS = 0.05
SMOOTHING = 0.1  # what a measurement counts for: a second of lag in one piece is forgiven, half a second of it is not
MAX_LAG_SECONDS = 5.0  # that one measurement counts
PEAK_SECONDS = 10.0
SPACE_SECONDS = 1.0
MIN_INODES = 1000
SIZES_FREE = 1.5  # room for so many messages of the largest size (as Postfix has it)
RELIEF = 0.5  # a limit once passed is kept to until only this part of it is reached
SPACE_RELIEF = 1.2

MAIL_LAG_SECONDS = 0.5
CONNECTION_LAG_SECONDS = 1.0
STORE_DEPTH = 500
STORE_SECONDS = 5.0
EXAMINERS_SECONDS = 5.0

Refusal = tuple[Reply, Cause]
UNAVAILABLE: Refusal = (replies.CANNOT_STORE, Cause.UNAVAILABLE)
OVERLOADED: Refusal = (replies.OVERLOADED, Cause.OVERLOAD)
NO_SPACE: Refusal = (replies.NO_SPACE, Cause.NO_SPACE)
TOO_BUSY: Refusal = (replies.LAGGING, Cause.OVERLOAD)


@dataclass(slots=True)
class Limit:
    """Whether a value is over its limit; once it was, it must fall well below before it no longer is."""

    most: float
    is_over: bool = False

    def see(self, value: float) -> None:
        self.is_over = value > (self.most * RELIEF if self.is_over else self.most)


class Load:
    """What one gateway process has on its hands. `run` measures, the others answer from what was measured last."""

    def __init__(
        self,
        store: Store,
        examiners: Examiners,
        *,
        places: Iterable[Path],
        min_free_octets: int,
        is_database_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self.places = list(places)
        self.shed: Counter[str] = Counter()  # by cause
        self.lag_seconds = 0.0  # smoothed
        self._store = store
        self._examiners = examiners
        self._min_free_octets = min_free_octets
        self._is_database_heard = is_database_heard
        self._peaks = [0.0, 0.0]  # of this and of the last few seconds
        self.lacks_space = False  # then all mail is put off
        self._told: tuple[str, ...] = ()
        self._limits = {
            "lag": Limit(MAIL_LAG_SECONDS),
            "great_lag": Limit(CONNECTION_LAG_SECONDS),
            "store_depth": Limit(STORE_DEPTH),
            "store_age": Limit(STORE_SECONDS),
            "examiners": Limit(EXAMINERS_SECONDS),
        }

    @property
    def peak_seconds(self) -> float:
        """The longest that the event loop was late in the last 10 to 20 seconds."""
        return max(self._peaks)

    def refuse_connection(self) -> Refusal | None:
        """What a new client is told instead of a greeting; None: it is welcome."""
        return self._note(TOO_BUSY) if self._limits["great_lag"].is_over else None

    def refuse_mail(self, client: str = "") -> Refusal | None:
        """What the recipients of a new message are told, as things stand; None: there is nothing against it."""
        if refusal := self.refuse_content():
            return refusal
        if any(limit.is_over for limit in self._limits.values()):
            return self._note(OVERLOADED)
        if self._examiners.get_waiting_seconds(client) > EXAMINERS_SECONDS:
            return self._note(OVERLOADED)
        return None

    def refuse_content(self) -> Refusal | None:
        """What is told to a client that is about to send a message whose recipients were taken: only what would keep it
        from being stored. It is let in before others where there is merely much to do.
        """
        if self._store.is_closed:
            return self._note(UNAVAILABLE)
        return self._note(NO_SPACE) if self.lacks_space else None

    def _note(self, refusal: Refusal) -> Refusal:
        self.shed[refusal[1].value] += 1
        return refusal

    async def run(self) -> None:
        """Measure until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure_lag())
            tasks.create_task(self._look_at_space())

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        turn_at = loop.time() + PEAK_SECONDS
        while True:
            begun_at = loop.time()
            await asyncio.sleep(MEASURE_SECONDS)
            now = loop.time()
            self.see_lag(now - begun_at - MEASURE_SECONDS)
            if now > turn_at:
                self._peaks = [0.0, self._peaks[0]]
                turn_at = now + PEAK_SECONDS
            self.look()

    def see_lag(self, seconds: float) -> None:
        seconds = max(seconds, 0.0)
        self._peaks[0] = max(self._peaks[0], seconds)
        self.lag_seconds += SMOOTHING * (min(seconds, MAX_LAG_SECONDS) - self.lag_seconds)

    def look(self) -> None:
        """Compare everything with its limit, and say so where something has changed."""
        values = {
            "lag": self.lag_seconds,
            "great_lag": self.lag_seconds,
            "store_depth": self._store.depth,
            "store_age": self._store.oldest_seconds,
            "examiners": self._examiners.waiting_seconds,
        }
        for name, value in values.items():
            self._limits[name].see(value)
        over = tuple(name for name, limit in self._limits.items() if limit.is_over)
        over += ("space",) * self.lacks_space
        if over != self._told:
            self._told = over
            numbers = (self.lag_seconds, self._store.depth, self._store.oldest_seconds)
            what = ",".join(over) or "-"
            log.warning("load over=%s lag_seconds=%.2f store_depth=%d store_seconds=%.1f", what, *numbers)

    async def _look_at_space(self) -> None:
        while True:
            if not self._is_database_heard():
                self._store.suspect()
            for_more = SPACE_RELIEF if self.lacks_space else 1.0
            self.lacks_space = await asyncio.to_thread(self._is_any_full, for_more)
            await asyncio.sleep(SPACE_SECONDS)

    def _is_any_full(self, times: float) -> bool:
        return any(is_full(place, self._min_free_octets * times, MIN_INODES * times) for place in self.places)


def is_full(place: Path, octets: float, inodes: float) -> bool:
    """Whether less is free there, for processes without privileges; False where it cannot be known."""
    try:
        found = os.statvfs(place)
    except OSError:
        return False
    lacks_inodes = found.f_files > 0 and found.f_favail < inodes  # some file systems have no such number
    return lacks_inodes or found.f_bavail * found.f_frsize < octets


async def find_data(pool: Pool) -> list[Path]:
    """Where PostgreSQL keeps its data and its log of changes, if that is on this machine and we may know."""
    try:
        async with pool.connection() as connection:
            if not is_local(connection.info.hostaddr or connection.info.host):
                return []
            cursor = await connection.execute("SELECT current_setting('data_directory')")
            [(directory,)] = await cursor.fetchall()
    except (Error, OSError):
        return []
    return [Path(directory), Path(directory, "pg_wal")]


def is_local(host: str) -> bool:
    if host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
