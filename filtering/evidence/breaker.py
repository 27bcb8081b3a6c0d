"""A rule that leans on a service is off while the service is ill."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

log = logging.getLogger(__name__)

WINDOW_SECONDS = 45.0  # and so the rule is on again within a minute
FAILING_SHARE = 0.05  # more than this turns the rule off
WELL_SHARE = 0.025  # at most this turns it on again
ENOUGH = 40  # parties without which no share is reckoned
MAX_PARTIES = 10_000


class Breaker:
    """Watches whom the service failed of late; `is_open` while these are too many, or the service is dead.

    Each party counts once, by its last outcome, however often it came. Who was failed while the service was well has
    trouble of its own and says nothing more until the service succeeds for it. Every change is logged once.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._outcomes: OrderedDict[str, tuple[float, bool]] = OrderedDict()  # by party, the oldest first
        self._failed = 0
        self._troubled: OrderedDict[str, None] = OrderedDict()
        self._is_dead = False
        self._is_open = False

    def record(self, party: str, *, failed: bool) -> None:
        if failed and party in self._troubled:
            return
        if not failed:
            self._troubled.pop(party, None)
        if party in self._outcomes:
            self._failed -= self._outcomes.pop(party)[1]
        self._outcomes[party] = (self._clock(), failed)
        self._failed += failed
        self._decide()

    def record_life(self, *, is_dead: bool) -> None:
        """That the service as a whole is known to be dead, or alive."""
        self._is_dead = is_dead
        self._decide()

    @property
    def is_open(self) -> bool:
        self._decide()
        return self._is_open

    def _decide(self) -> None:
        self._forget_old()
        total = len(self._outcomes)
        if self._is_open:
            if not self._is_dead and self._failed <= WELL_SHARE * max(total, ENOUGH):
                self._is_open = False
                log.warning("rule_on rule=%s failed=%d of=%d", self._name, self._failed, total)
        elif self._is_dead or (total >= ENOUGH and self._failed > FAILING_SHARE * total):
            self._is_open = True
            cause = "dead" if self._is_dead else "failures"
            log.error("rule_off rule=%s cause=%s failed=%d of=%d", self._name, cause, self._failed, total)

    def _forget_old(self) -> None:
        since = self._clock() - WINDOW_SECONDS
        while self._outcomes:
            party, (when, failed) = next(iter(self._outcomes.items()))
            if when >= since and len(self._outcomes) <= MAX_PARTIES:
                return
            del self._outcomes[party]
            self._failed -= failed
            if failed and not self._is_open:
                self._troubled[party] = None
                if len(self._troubled) > MAX_PARTIES:
                    self._troubled.popitem(last=False)
