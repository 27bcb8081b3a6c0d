"""A clock that is wrong, or weeks of being off, make nothing vanish for a day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django_tenants.utils import schema_context

from quarantine import tasks
from quarantine.models import Content, Recipient, State
from quarantine.platform.heartbeat import forget_silent
from quarantine.platform.models import Heartbeat, HourlyCount, Receipt, Unrouted
from tests.kept_mail import keep

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2026, 11, 2, 9, tzinfo=UTC)
RULES = ("retention_waits", "retention_goes_on")


@pytest.fixture
def clock(acme, monkeypatch) -> Iterator[time_machine.Traveller]:
    """A platform that has had its rounds for days, with mail of two days ago that is kept for 30."""
    monkeypatch.setattr(tasks.expire_provider, "apply_async", lambda args, expires: tasks.expire_provider(*args))
    with time_machine.travel(START, tick=False) as traveller:
        go_on(traveller, DAY)
        keep("bob@alpha.test", received_at=START - DAY)
        keep("bob@alpha.test", state=State.RELEASED, received_at=START - DAY)
        Unrouted.objects.create(trace_id="x", at=START - 60 * DAY, reply="550 no")
        HourlyCount.objects.create(hour=START - 370 * DAY, kind="refused", instance="a", count=1)
        yield traveller


def run_round() -> None:
    with schema_context("public"):
        tasks.expire_held()
        tasks.forget_platforms()
        forget_silent()


def go_on(clock: time_machine.Traveller, span: timedelta) -> None:
    """Rounds every hour, for so long."""
    run_round()
    for _ in range(int(span / HOUR)):
        clock.shift(HOUR)
        run_round()


def list_kept() -> tuple[list[str], int, int, int]:
    """States, contents, and what the platform remembers."""
    states = sorted(Recipient.objects.values_list("state", flat=True))
    return states, Content.objects.count(), Unrouted.objects.count(), HourlyCount.objects.count()


ALL = ["quarantined", "released"], 2, 1, 1
GONE = ["expired", "released"], 0, 0, 0


def test_with_the_clock_weeks_ahead_all_is_there_for_a_day_and_gone_after_it(clock, caplog):
    clock.shift(40 * DAY)
    go_on(clock, 23 * HOUR)
    assert list_kept() == ALL
    go_on(clock, HOUR)
    assert list_kept() == GONE
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith(RULES)]
    assert told[-2:] == [
        "retention_waits last_round=2026-11-03T09:00:00+00:00 now=2026-12-13T09:00:00+00:00"
        " until=2026-12-14T09:00:00+00:00",
        "retention_goes_on waited_since=2026-12-13T09:00:00+00:00",
    ]
    assert [r.levelname for r in caplog.records if r.getMessage() in told[-2:]] == ["WARNING", "INFO"]


def test_a_clock_that_is_put_right_again_costs_nothing_and_retention_goes_on(clock):
    clock.shift(40 * DAY)
    go_on(clock, 5 * HOUR)
    clock.shift(-40 * DAY)
    go_on(clock, 20 * DAY)
    assert list_kept() == ALL
    go_on(clock, 11 * DAY)
    assert list_kept()[0] == ["expired", "released"]


def test_the_day_begins_anew_when_the_clock_is_put_right_only_in_part(clock):
    clock.shift(80 * DAY)
    go_on(clock, 23 * HOUR)
    clock.shift(-40 * DAY)
    go_on(clock, 23 * HOUR)
    assert list_kept() == ALL


def test_a_machine_that_is_off_again_within_the_day_waits_for_a_whole_one(clock):
    clock.shift(40 * DAY)
    run_round()
    clock.shift(2 * DAY)
    go_on(clock, 23 * HOUR)
    assert list_kept() == ALL
    go_on(clock, HOUR)
    assert list_kept() == GONE


def test_a_long_weekend_is_no_outage(clock):
    go_on(clock, 27 * DAY)
    assert list_kept()[0] == ["quarantined", "released"]
    clock.shift(3 * DAY)
    run_round()
    assert list_kept()[0] == ["expired", "released"]


def test_the_first_round_of_all_waits_and_alarms_nobody(clock, caplog):
    Heartbeat.objects.all().delete()
    caplog.clear()
    clock.shift(40 * DAY)
    run_round()
    assert list_kept() == ALL
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    go_on(clock, DAY)
    assert list_kept() == GONE


def test_receipts_go_all_the_same(clock):
    Receipt.objects.create(fingerprint=b"\0", trace_id="x", at=START - 2 * HOUR)
    clock.shift(40 * DAY)
    run_round()
    assert not Receipt.objects.exists()
