"""The courier while its database is away or refuses, and with faults of ours."""

import time
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection
from psycopg.conninfo import make_conninfo

from portal.tenants.database import get_conninfo
from quarantine.delivery import desk
from quarantine.models import Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import send_off
from tests.quarantine.couriers import BEA, BOB, CAROL, get_row, wait_for_state
from tests.running_courier import running_courier, wait_until
from tests.smtp_sink import Reply


@pytest.mark.faults
def test_a_database_that_goes_away_loses_and_doubles_nothing(sink, acme_committed, tmp_path):
    sink.on("DOT", lambda _: Reply("250 ok", after=0.05))
    for _ in range(150):
        send_off(BOB)
    with running_courier(tmp_path):
        sink.wait(20)
        with no_database():
            time.sleep(3)
        assert len(sink.messages) < 150
        sink.wait(150, seconds=60)
        wait_until(lambda: not DeliveryJob.objects.exists(), 60)
    assert len({message.raw for message in sink.messages}) == len(sink.messages) == 150
    assert Recipient.objects.filter(state=State.DELIVERED).count() == 150


@contextmanager
def refusing(table: str, condition: str, sqlstate: str):
    """A database that refuses to change such rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING"
            f" ERRCODE = '{sqlstate}', MESSAGE = 'no', DETAIL = 'Row contains (' || row_to_json(OLD) || ').'; END $$;"
            f" CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION refuse CASCADE")


def test_outcomes_wait_while_the_database_is_read_only(sink, acme_committed, tmp_path, caplog):
    with running_courier(tmp_path), refusing("quarantine_recipient", "true", "25006"):
        for address in (BOB, CAROL):
            send_off(address)
        sink.wait(2)
        wait_until(lambda: "outcomes_wait" in caplog.text)
        connection.cursor().execute("DROP TRIGGER refuse ON quarantine_recipient")
        assert wait_for_state(State.DELIVERED).attempts == 1
        wait_for_state(State.DELIVERED, CAROL)
    assert len(sink.messages) == 2


def test_an_outcome_that_is_refused_keeps_nobody_and_is_tried_again(
    sink, acme_committed, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(desk, "REFUSED_RETRY_SECONDS", 0.3)
    sink.on("RCPT", lambda line: "550 5.1.1 who?" if "bea" in line else None)
    with running_courier(tmp_path), refusing("quarantine_recipient", f"old.address <> '{CAROL}'", "23514"):
        for address in (BOB, BEA, CAROL):
            send_off(address)
        wait_for_state(State.DELIVERED, CAROL)
        assert {get_row(BOB).state, get_row(BEA).state} == {State.DELIVERING}
        connection.cursor().execute("DROP TRIGGER refuse ON quarantine_recipient")
        wait_for_state(State.DELIVERED)
        wait_for_state(State.HELD, BEA)
    assert len(sink.messages) == 2
    assert not DeliveryJob.objects.exists()
    assert "CheckViolation sqlstate=23514" in caplog.text
    assert BOB not in caplog.text


def test_a_fault_of_ours_is_told_without_the_mail(sink, acme_committed, tmp_path, quick, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError(BOB)

    monkeypatch.setattr("quarantine.delivery.letter.restore", fail)
    send_off(BOB)
    with running_courier(tmp_path):
        assert "our own fault" in wait_for_state(State.DEFERRED).reply
    assert "delivery_failed provider=sp_acme" in caplog.text
    assert "RuntimeError" in caplog.text
    assert BOB not in caplog.text


@contextmanager
def no_database():
    """No connection but the test's own lives, and no new one is let in."""
    name = connection.settings_dict["NAME"]
    with psycopg.connect(make_conninfo(get_conninfo(), dbname="postgres"), autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        try:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'lazaret-%%' AND datname = %s",
                [name],
            )
            yield
        finally:
            other.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
