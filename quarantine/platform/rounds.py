"""The rounds of retention on record, so that a wrong clock, or weeks of being off, make nothing vanish at once.

Two rows beside the signs of life: when retention had its last round, and since when it has been waiting.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from quarantine.platform.heartbeat import RETENTION
from quarantine.platform.models import Heartbeat

log = logging.getLogger(__name__)

LAST, WAITING = "last", "waiting"
SILENCE = timedelta(days=3)  # so long without a round is an outage, or a clock that was set
NOTICE = timedelta(days=1)  # then, in which somebody may see it


def note_round() -> bool:
    """Note that retention has a round now; whether it may delete. Not for a day after more than three days without one
    (or, while it waits, one), nor after the first of all.
    """
    now = timezone.now()
    with transaction.atomic():
        last, since = _read(LAST), _read(WAITING)
        _write(LAST, now)
        if last is None or now - last > (NOTICE if since else SILENCE) or (since and since > now):
            _wait(last, now)
            return False
        if since and now - since < NOTICE:
            return False
        if since:
            Heartbeat.objects.filter(part=RETENTION, instance=WAITING).delete()
            log.info("retention_goes_on waited_since=%s", since.isoformat(timespec="seconds"))
    return True


def _wait(last: datetime | None, now: datetime) -> None:
    _write(WAITING, now)
    told = last.isoformat(timespec="seconds") if last else "none"
    until = (now + NOTICE).isoformat(timespec="seconds")
    # The first round of all is no surprise.
    level = logging.WARNING if last else logging.INFO
    log.log(level, "retention_waits last_round=%s now=%s until=%s", told, now.isoformat(timespec="seconds"), until)


def _read(instance: str) -> datetime | None:
    return Heartbeat.objects.filter(part=RETENTION, instance=instance).values_list("at", flat=True).first()


def _write(instance: str, at: datetime) -> None:
    Heartbeat.objects.update_or_create(part=RETENTION, instance=instance, defaults={"at": at})
