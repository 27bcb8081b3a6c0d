"""The clock was ahead, and was put right: what waits for the wrong time goes now."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from quarantine.delivery import clock
from quarantine.models import State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import send_off
from tests.quarantine.couriers import BEA, BOB, get_row, wait_for_state
from tests.running_courier import running_courier
from tests.smtp_sink import Reply

MINUTE = timedelta(minutes=1)


def postpone(*, by: timedelta, attempts: int) -> None:
    DeliveryJob.objects.update(due_at=timezone.now() + by, attempts=attempts)


@pytest.mark.parametrize(("by", "attempts"), [(180 * MINUTE, 0), (180 * MINUTE, 5), (50 * MINUTE, 0)])
def test_what_waits_for_a_wrong_time_goes_when_the_courier_starts(sink, acme_committed, tmp_path, caplog, by, attempts):
    for address in (BOB, BEA):
        send_off(address)
    postpone(by=by, attempts=attempts)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED, BOB)
        wait_for_state(State.DELIVERED, BEA)
    assert "clock_was_set jobs=2" in caplog.text


def test_a_courier_that_runs_meanwhile_finds_it_too(sink, acme_committed, tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "LOOK_SECONDS", 0.2)
    sink.on("DOT", lambda _: Reply("450 4.2.0 later"), times=1)
    send_off(BOB)
    with running_courier(tmp_path):
        wait_for_state(State.DEFERRED)
        postpone(by=180 * MINUTE, attempts=1)
        wait_for_state(State.DELIVERED)


@pytest.mark.parametrize(("by", "attempts"), [(60 * MINUTE, 9), (0.9 * MINUTE, 0)])
def test_what_waits_as_it_should_goes_on_waiting(sink, acme_committed, tmp_path, caplog, by, attempts):
    send_off(BOB)
    postpone(by=by, attempts=attempts)
    send_off(BEA)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED, BEA)
    assert get_row(BOB).state == State.DELIVERING
    assert "clock_was_set" not in caplog.text


def test_of_jobs_that_wait_as_they_should_none_is_read(acme_committed):
    """By the look of every five minutes, with a long backlog of a server that is down."""
    send_off(BOB)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO platform_deliveryjob (schema, recipient_id, domain_id, lane, attempts, due_at)"
            " SELECT schema, -n, domain_id, lane, 1, now() + interval '1 hour'"
            " FROM platform_deliveryjob, generate_series(1, 20000) n"
        )
        cursor.execute("ANALYZE platform_deliveryjob")
        values = {"seconds": clock.LONGEST_WAIT_SECONDS, "attempts": clock.ANY_ATTEMPTS, "batch": clock.BATCH}
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + clock.HASTEN_BEYOND, values)
        [[[plan]]] = cursor.fetchall()
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 100


def test_what_a_courier_that_is_gone_had_claimed_until_a_wrong_time_goes(sink, acme_committed, tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "LOOK_SECONDS", 0.2)
    send_off(BOB)
    later = timezone.now() + 180 * MINUTE
    DeliveryJob.objects.update(claimed_by="gone-1-abcd", claimed_until=later, due_at=later)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)


def test_a_lease_that_is_renewed_meanwhile_is_left_alone(sink, acme_committed, tmp_path, monkeypatch):
    """A live courier's, whatever the clock was when it claimed."""
    monkeypatch.setattr(clock, "LOOK_SECONDS", 1.0)
    send_off(BOB)
    hour = 60 * MINUTE
    DeliveryJob.objects.update(claimed_by="other-1-abcd", claimed_until=timezone.now() + hour)
    send_off(BEA)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED, BEA)
        for number in range(1, 30):
            DeliveryJob.objects.filter(claimed_by="other-1-abcd").update(
                claimed_until=timezone.now() + hour + number * MINUTE
            )
            time.sleep(0.1)
    assert get_row(BOB).state == State.DELIVERING


def test_untried_mail_is_looked_for_again_when_the_clock_of_the_database_goes_back(
    sink, acme_committed, tmp_path, monkeypatch
):
    monkeypatch.setattr(clock, "LOOK_SECONDS", 0.2)
    send_off(BOB)
    postpone(by=50 * MINUTE, attempts=0)
    monkeypatch.setattr(clock, "UNTRIED_WAIT_SECONDS", 7200)  # nothing is found at the start
    with running_courier(tmp_path):
        time.sleep(0.5)
        assert get_row(BOB).state == State.DELIVERING
        monkeypatch.setattr(clock, "UNTRIED_WAIT_SECONDS", 60)
        time.sleep(0.5)
        assert get_row(BOB).state == State.DELIVERING  # the clock goes on as it should
        monkeypatch.setattr(clock, "CLOCK", f"{clock.CLOCK} - 3000")
        wait_for_state(State.DELIVERED)
