"""Beat goes on when the clock is put back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from portal.beat import Scheduler
from portal.celery import app

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
HEARTBEAT, DIGESTS = "quarantine.platform.tasks.heartbeat", "reports.tasks.dispatch_due_digests"


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """What was sent to the broker, by task."""
    names: list[str] = []
    monkeypatch.setattr(Scheduler, "apply_async", lambda self, entry, **_: names.append(entry.task))
    return names


@pytest.mark.parametrize("back", [timedelta(minutes=2), timedelta(hours=3), timedelta(days=40)])
def test_what_is_done_by_the_clock_goes_on_when_it_is_put_back(sent, caplog, back):
    with time_machine.travel(START, tick=False) as clock:
        scheduler = Scheduler(app, lazy=False)
        run(scheduler, clock, seconds=61)
        assert set(sent) == {HEARTBEAT, DIGESTS}
        clock.shift(-back)
        sent.clear()
        run(scheduler, clock, seconds=66)
    assert sent.count(DIGESTS) == 1
    assert sent.count(HEARTBEAT) >= 12
    assert caplog.text.count("clock_was_set") == 1


def test_a_clock_that_goes_right_is_not_told_of(sent, caplog):
    with time_machine.travel(START, tick=False) as clock:
        run(Scheduler(app, lazy=False), clock, seconds=7205)
    assert sent.count(DIGESTS) == 120
    assert "clock_was_set" not in caplog.text


def run(scheduler: Scheduler, clock: time_machine.Traveller, *, seconds: int) -> None:
    """As beat does: look again when the scheduler says."""
    end = datetime.now(UTC) + timedelta(seconds=seconds)
    while datetime.now(UTC) < end:
        clock.shift(timedelta(seconds=max(scheduler.tick(), 0.01)))
