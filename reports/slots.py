"""When a daily report is due: an hour of the day where the recipient lives. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


def get_slot(day: date, hour: int, time_zone: str) -> datetime:
    """The instant of the hour on that day. An hour that the clocks skip is the moment of the change;
    an hour that comes twice is the first one (PEP 495, fold=0).
    """
    return datetime.combine(day, time(hour), tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


def next_slot(hour: int, time_zone: str, after: datetime) -> datetime:
    """The first slot later than `after`, as aware UTC: exactly one on each day of that time zone, without drift.

    Raises ZoneInfoNotFoundError for a time zone that nobody knows.
    """
    day = after.astimezone(ZoneInfo(time_zone)).date() - timedelta(days=1)
    while (slot := get_slot(day, hour, time_zone)) <= after:
        day += timedelta(days=1)
    return slot


def is_slot(at: datetime, time_zone: str) -> bool:
    """Whether it is the slot of some hour; a report that failed is tried again at a time that is none."""
    day = at.astimezone(ZoneInfo(time_zone)).date()
    return any(get_slot(day, hour, time_zone) == at for hour in range(24))


def move_slot(slot: datetime, hour: int, time_zone: str) -> datetime:
    """Where the slot of the same day lies by the present hour and time zone, which may have been changed since."""
    return get_slot(slot.astimezone(ZoneInfo(time_zone)).date(), hour, time_zone)
