"""A rule that leans on a service is off while the service is ill."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

log = logging.getLogger(__name__)

WINDOW_SECONDS = 45.0  # and so the rule is on again within a minute
FAILING_SHARE = 0.05  # more than this turns the rule off
WELL_SHARE = 0.025  # at most this turns it on again
ENOUGH = 40  # parties without which no share is reckoned
MAX_PARTIES = 10_000
WITNESSES = 20  # others for whom the service succeeded since, and a failure is the party's own
FORGIVEN_SECONDS = 120.0  # without a failure; then a party for whom the service succeeds is like any other


_Value = TypeVar("_Value")


class Breaker:
    """Watches whom the service failed of late; `is_open` while these are too many, or the service is dead.

    Each party counts once, by its last outcome, however often it came. Whom the service fails again although it has
    succeeded for enough others since has trouble of its own, and its failures count no more until it is forgiven. Of a
    service that succeeds for nobody that is said of nobody. Every change is logged once, in the words of `events`.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float] = time.monotonic,
        events: tuple[str, str] = ("rule_off", "rule_on"),
    ) -> None:
        self._name = name
        self._clock = clock
        self._events = events
        self._outcomes: OrderedDict[str, tuple[float, bool]] = OrderedDict()  # by party, the oldest first
        self._failed = 0
        self._failing: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by party: since when, and the last time
        self._witnesses: OrderedDict[str, float] = OrderedDict()  # who succeeded last, and when
        self._death = ""  # by what the service is known to be dead
        self._revived_at = -math.inf
        self._open_since: datetime | None = None

    def record(self, party: str, *, failed: bool, asked_at: float = math.inf) -> None:
        """How it went for a party, whose question is of `asked_at` (by our clock)."""
        now = self._clock()
        if failed and asked_at < self._revived_at:
            return  # of a question that went to the dead
        if party in self._outcomes:
            self._failed -= self._outcomes.pop(party)[1]
        if failed:
            since = self._failing.pop(party, (now, now))[0]
            _put(self._failing, party, (since, now), limit=MAX_PARTIES)
        elif now - self._failing.get(party, (now, now))[1] > FORGIVEN_SECONDS:
            del self._failing[party]
        if not failed:
            _put(self._witnesses, party, now, limit=WITNESSES)
        if not (failed and self._has_own_trouble(party)):
            self._outcomes[party] = (now, failed)
            self._failed += failed
        self._decide()

    def _has_own_trouble(self, party: str) -> bool:
        is_seen = len(self._witnesses) == WITNESSES
        return is_seen and next(iter(self._witnesses.values())) > self._failing[party][0]

    def record_life(self) -> None:
        """That the service as a whole is alive. What it failed while it was dead says nothing of now."""
        if self._death:
            self._death = ""
            self._revived_at = self._clock()
            self._outcomes.clear()
            self._failed = 0
        self._decide()

    def record_death(self, sign: str) -> None:
        """That it is known to be dead, whoever fails or does not; by what, as the log will say."""
        self._death = sign
        self._decide()

    @property
    def is_open(self) -> bool:
        return self.open_since is not None

    @property
    def open_since(self) -> datetime | None:
        """Since when it is open, by the clock on the wall; None: it is not."""
        self._decide()
        return self._open_since

    def _decide(self) -> None:
        self._forget_old()
        total = len(self._outcomes)
        if self._open_since:
            if not self._death and self._failed <= WELL_SHARE * max(total, ENOUGH):
                self._open_since = None
                log.warning("%s rule=%s failed=%d of=%d", self._events[1], self._name, self._failed, total)
        elif self._death or (total >= ENOUGH and self._failed > FAILING_SHARE * total):
            self._open_since = datetime.now(UTC)
            why = f"dead {self._death}" if self._death else f"failures failed={self._failed} of={total}"
            log.error("%s rule=%s cause=%s", self._events[0], self._name, why)

    def _forget_old(self) -> None:
        since = self._clock() - WINDOW_SECONDS
        while self._outcomes:
            party, (when, failed) = next(iter(self._outcomes.items()))
            if when >= since and len(self._outcomes) <= MAX_PARTIES:
                return
            del self._outcomes[party]
            self._failed -= failed


def _put(kept: OrderedDict[str, _Value], party: str, value: _Value, *, limit: int) -> None:
    kept[party] = value
    kept.move_to_end(party)
    if len(kept) > limit:
        kept.popitem(last=False)
