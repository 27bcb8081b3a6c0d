"""A rule that leans on a service is off while the service is ill."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0
FAILING_SHARE = 0.05  # more than this turns the rule off
WELL_SHARE = 0.025  # at most this turns it on again
ENOUGH = 40  # outcomes without which nothing is concluded
MAX_OUTCOMES = 2000


class Breaker:
    """Watches the outcomes of the last minute; `is_open` while too many failed. An alarm is logged at every change."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=MAX_OUTCOMES)
        self._is_open = False

    def record(self, *, failed: bool) -> None:
        self._outcomes.append((self._clock(), failed))
        self._decide()

    @property
    def is_open(self) -> bool:
        self._decide()
        return self._is_open

    def _decide(self) -> None:
        since = self._clock() - WINDOW_SECONDS
        while self._outcomes and self._outcomes[0][0] < since:
            self._outcomes.popleft()
        total = len(self._outcomes)
        failed = sum(outcome for _, outcome in self._outcomes)
        if not self._is_open and total >= ENOUGH and failed > FAILING_SHARE * total:
            self._is_open = True
            log.error("rule_off rule=%s failed=%d of=%d seconds=%d", self._name, failed, total, WINDOW_SECONDS)
        elif self._is_open and failed <= WELL_SHARE * total:
            self._is_open = False
            log.warning("rule_on rule=%s failed=%d of=%d seconds=%d", self._name, failed, total, WINDOW_SECONDS)
