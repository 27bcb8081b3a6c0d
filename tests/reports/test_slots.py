"""When a daily report is due, across the clock changes of the world."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.slots import get_slot, move_slot, next_slot

ZONES = sorted(available_timezones())


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hour", "zone", "after", "expected"),
    [
        (7, "UTC", utc(2026, 11, 23, 6, 59, 59), utc(2026, 11, 23, 7)),
        (7, "UTC", utc(2026, 11, 23, 7), utc(2026, 11, 24, 7)),  # strictly later
        (7, "Europe/Berlin", utc(2026, 11, 23, 5), utc(2026, 11, 23, 6)),
        (7, "Europe/Berlin", utc(2026, 7, 1, 4), utc(2026, 7, 1, 5)),
        (7, "Asia/Kathmandu", utc(2026, 1, 1), utc(2026, 1, 1, 1, 15)),
        (0, "Pacific/Kiritimati", utc(2026, 1, 1), utc(2026, 1, 1, 10)),
        (2, "Europe/Berlin", utc(2026, 3, 28, 12), utc(2026, 3, 29, 1)),  # 02:00 does not exist: 03:00 summer time
        (2, "Europe/Berlin", utc(2026, 3, 29, 1), utc(2026, 3, 30, 0)),
        (2, "Europe/Berlin", utc(2026, 10, 24, 12), utc(2026, 10, 25, 0)),  # 02:00 comes twice: the first
        (2, "Europe/Berlin", utc(2026, 10, 25, 0), utc(2026, 10, 26, 1)),
        (2, "Europe/Berlin", utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1)),  # between the two
        (0, "Africa/Cairo", utc(2026, 4, 23, 12), utc(2026, 4, 23, 22)),  # midnight does not exist: 01:00
        (2, "Australia/Lord_Howe", utc(2026, 10, 3, 2), utc(2026, 10, 3, 15, 30)),  # half an hour is skipped
    ],
)
def test_slot_is_the_hour_where_the_recipient_lives(hour, zone, after, expected):
    assert next_slot(hour, zone, after) == expected


@given(
    hour=st.integers(0, 23),
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
)
def test_every_day_has_exactly_one_slot(hour, zone, start):
    slots = [next_slot(hour, zone, start)]
    while len(slots) < 10:
        slots.append(next_slot(hour, zone, slots[-1]))
    days = [slot.astimezone(ZoneInfo(zone)).date() for slot in slots]
    assert len(set(days)) == 10
    assert (days[-1] - days[0]).days in {9, 10}  # 10 where a day was left out of the calendar (Samoa, 2011)
    assert slots[0] - start <= timedelta(hours=51)


@given(
    hour=st.integers(0, 23),
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    late=st.timedeltas(timedelta(0), timedelta(hours=20)),
)
def test_a_late_run_does_not_make_the_next_slot_later(hour, zone, start, late):
    slot = next_slot(hour, zone, start)
    after = next_slot(hour, zone, slot)
    if slot + late < after:
        assert next_slot(hour, zone, slot + late) == after


def test_a_slot_moves_to_another_hour_of_its_own_day():
    seven = get_slot(datetime(2026, 11, 23).date(), 7, "Europe/Berlin")
    assert move_slot(seven, 9, "Europe/Berlin") == seven + timedelta(hours=2)
    assert move_slot(seven, 7, "Europe/Berlin") == seven
