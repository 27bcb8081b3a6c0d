"""The scheduler of beat, which stands no clock that is put back: Celery's own would wait until the time is reached
again that it had begun from, and nobody would see it.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from celery import beat

log = logging.getLogger(__name__)

JITTER = timedelta(seconds=1)


class Scheduler(beat.Scheduler):
    """Keeps its times in memory: a persistent one knows nothing that the database does not."""

    def tick(self, *args: Any, **options: Any) -> float:
        """As Celery's: send what is due, and return in how many seconds to look again."""
        if ahead := [entry for entry in self.schedule.values() if entry.last_run_at > entry.default_now() + JITTER]:
            log.warning("clock_was_set tasks=%d", len(ahead))
            for entry in ahead:
                entry.last_run_at = entry.default_now()
            self._heap = None  # made anew from these
        return float(super().tick(*args, **options))
