"""What becomes of a delivery, by what the server said. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from quarantine.delivery.smtp import MAX_REPLY_TEXT, Reply

FIRST_PAUSE_SECONDS = 30
LONGEST_PAUSE_SECONDS = 3600
MAX_TEXT = 1000
GIVE_UP_AFTER = timedelta(days=5)  # RFC 5321 4.5.4.1: at least four or five days


class Result(StrEnum):
    TAKEN = "taken"  # the server answered 2xx
    LATER = "later"  # 4xx, or no answer: tried again
    REFUSED = "refused"  # 5xx, or five days of 4xx: kept, for a person to look at
    VOID = "void"  # there is nothing to deliver (any more): only the job goes


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed row of the delivery queue."""

    id: int
    schema: str
    recipient_id: int
    domain_id: int
    lane: str
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to record of one attempt; `pause` in seconds, for LATER."""

    job_id: int
    schema: str
    recipient_id: int
    result: Result
    reply: str
    at: datetime
    pause: float = 0
    how: str = ""  # with whom, how protected, how long

    @property
    def text(self) -> str:
        """The line of the trace."""
        return f"{self.reply} [{self.how}]"[:MAX_TEXT] if self.how else self.reply


def decide(job: Job, reply: Reply, now: datetime, *, pause: float | None = None, how: str = "") -> Outcome:
    """2xx: taken. 5xx: refused. Else later, after `pause` seconds or one that grows; after five days: refused."""
    result, text = Result.LATER, str(reply)
    if reply.good:
        result = Result.TAKEN
    elif reply.final:
        result = Result.REFUSED
    elif now - job.created_at > GIVE_UP_AFTER:
        result = Result.REFUSED
        text = f"given up after {GIVE_UP_AFTER.days} days: {text}"[:MAX_REPLY_TEXT]
    wait = (get_pause(job.attempts) if pause is None else pause) if result is Result.LATER else 0
    return Outcome(job.id, job.schema, job.recipient_id, result, text, now, wait, how)


def get_pause(attempts: int) -> float:
    """Seconds until the next attempt, after so many: 30, 60, 120 ... 3600; 10 % more or less, to spread the load."""
    pause = min(FIRST_PAUSE_SECONDS << min(attempts, 10), LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(0.9, 1.1)  # noqa: S311
