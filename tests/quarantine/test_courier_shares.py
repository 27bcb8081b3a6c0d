"""Many domains and many providers share a courier: none waits for another."""

from contextlib import contextmanager
from datetime import timedelta
from time import sleep

import psycopg
import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.database import get_conninfo
from quarantine.delivery import courier, desk
from quarantine.delivery.channel import Manner
from quarantine.delivery.courier import JOBS_IN_HAND, Courier
from quarantine.delivery.journal import Journal, Slot, Taken, read_journal
from quarantine.delivery.rows import Backlog
from quarantine.models import Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import send_off
from tests.quarantine.couriers import BOB
from tests.running_courier import running_courier, wait_until

GUS = "gus@gamma.test"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(courier, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(courier, "HOLD_SECONDS", 0.1)
    monkeypatch.setattr(desk, "LOCKED_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(desk, "RENEW_SECONDS", 0.3)


@contextmanager
def locked(table: str, mode: str = "ACCESS EXCLUSIVE"):
    """By somebody who changes it, in the schema of acme."""
    with psycopg.connect(get_conninfo()) as database:
        database.execute(f"LOCK TABLE sp_acme.{table} IN {mode} MODE")
        yield


def send_both() -> None:
    for schema, address in (("sp_acme", BOB), ("sp_globex", GUS)):
        with schema_context(schema):
            send_off(address)


def is_delivered(schema: str) -> bool:
    with schema_context(schema):
        return Recipient.objects.get().state == State.DELIVERED


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("table", ["quarantine_recipient", "quarantine_content"])
def test_a_provider_whose_tables_are_locked_keeps_no_other_from_its_mail(sink, tmp_path, table):
    send_both()
    with locked(table), running_courier(tmp_path):
        wait_until(lambda: is_delivered("sp_globex"))
        assert [message.recipients for message in sink.messages] == [[f"<{GUS}>"]]
    with running_courier(tmp_path):
        wait_until(lambda: is_delivered("sp_acme"))
    assert len(sink.messages) == 2


def test_while_one_is_locked_the_others_mail_flows(sink, tmp_path):
    """More than a round takes, with the times that a courier has."""
    with schema_context("sp_acme"):
        for _ in range(60):
            send_off(BOB)
    with schema_context("sp_globex"):
        for _ in range(300):
            send_off(GUS)
    with locked("quarantine_recipient"), running_courier(tmp_path):
        sink.wait(300)
    assert {recipient for message in sink.messages for recipient in message.recipients} == {f"<{GUS}>"}


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_recorded_for_a_lock_keeps_no_other_and_is_not_sent_again(sink, tmp_path):
    send_both()
    with running_courier(tmp_path):
        with locked("quarantine_event"):
            sink.wait(2)
            wait_until(lambda: is_delivered("sp_globex"))
            assert not is_delivered("sp_acme")
        wait_until(lambda: is_delivered("sp_acme"))
    assert len(sink.messages) == 2


@pytest.mark.usefixtures("quick")
def test_what_a_killed_courier_had_sent_is_not_sent_again_while_its_provider_is_locked(sink, tmp_path):
    with schema_context("sp_acme"):
        send_off(BOB)
        job = DeliveryJob.objects.get()
    job.claimed_by, job.claimed_until = "killed", timezone.now() + timedelta(minutes=1)
    job.save()
    left = Slot(tmp_path / "2")
    (left.directory / "name").write_text("killed")
    journal = Journal(left.journal_path)
    journal.note(Taken(job.pk, "sp_acme", job.recipient_id, "250 2.0.0 once", timezone.now()))
    journal.close()
    left.leave()
    with locked("quarantine_event"):
        with running_courier(tmp_path):
            send_off_to_globex()
            wait_until(lambda: is_delivered("sp_globex"))
        with running_courier(tmp_path) as running:
            wait_until(lambda: hasattr(running, "desk") and running.desk.held == {job.pk})  # by its own journal now
    with running_courier(tmp_path):
        wait_until(lambda: is_delivered("sp_acme"))
    assert [message.recipients for message in sink.messages] == [[f"<{GUS}>"]]


@pytest.mark.usefixtures("quick")
def test_what_was_taken_and_not_recorded_is_nobodys_after_an_orderly_stop(sink, tmp_path):
    """Until its courier starts again: another one would send it a second time."""
    with schema_context("sp_acme"):
        send_off(BOB)
    with locked("quarantine_event"):
        with running_courier(tmp_path / "first"):
            sink.wait(1)
            wait_until(lambda: read_journal(tmp_path / "first" / "1" / "journal") != [])
        with running_courier(tmp_path / "second"):
            send_off_to_globex()
            wait_until(lambda: is_delivered("sp_globex"))
    with running_courier(tmp_path / "first"):
        wait_until(lambda: is_delivered("sp_acme"))
    assert len(sink.messages) == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("table", "mode", "pool"),
    [
        ("quarantine_recipient", "ACCESS EXCLUSIVE", "lazaret-courier-apart"),
        ("quarantine_event", "SHARE", "lazaret-courier-record"),
    ],
)
def test_however_much_waits_for_a_lock_one_connection_does(sink, tmp_path, monkeypatch, table, mode, pool):
    """And the others serve everybody else."""
    monkeypatch.setattr(courier, "LOCK_SECONDS", 0.5)
    with schema_context("sp_acme"):
        for number in range(5):
            recipient = send_off(BOB).recipients.get()
            due_at = timezone.now() + timedelta(seconds=0.3 * number)
            DeliveryJob.objects.filter(recipient_id=recipient.pk).update(due_at=due_at)
    with locked(table, mode), running_courier(tmp_path):
        sleep(3)  # all have been tried
        waiting = []
        for number in range(1, 11):
            send_off_to_globex()
            wait_until(lambda number=number: count_delivered("sp_globex") == number)
            waiting.append(count_waiting(pool))
            sleep(0.1)
    assert max(waiting) == 1
    with running_courier(tmp_path):
        wait_until(lambda: count_delivered("sp_acme") == 5)


def count_waiting(application: str) -> int:
    with psycopg.connect(get_conninfo()) as database:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
        return database.execute(query, [application]).fetchone()[0]


def count_delivered(schema: str) -> int:
    with schema_context(schema):
        return Recipient.objects.filter(state=State.DELIVERED).count()


def send_off_to_globex() -> None:
    with schema_context("sp_globex"):
        send_off(GUS)


def allot(tmp_path, *backlog: Backlog) -> dict[int, int]:
    """Jobs that a courier which has nothing in hand claims in a round, by domain; every server has answered before."""
    made = Courier(tmp_path, Manner("lazaret.test"))
    made.desk = None
    for entry in backlog:
        made._get_channel(entry).server.note_progress()
    return {domain: jobs for _, domain, jobs in made._allot(list(backlog))}


def wait_for(domain: int, *, port: int = 25, due_in: float = -1.0) -> Backlog:
    return Backlog("mail", domain, "192.0.2.1", port, due_in)


def test_domains_of_one_server_are_served_in_one_round(tmp_path):
    alone = allot(tmp_path, wait_for(1))[1]
    assert alone > 4
    assert allot(tmp_path, *(wait_for(domain) for domain in range(4))) == dict.fromkeys(range(4), alone // 4)
    many = allot(tmp_path, *(wait_for(domain, due_in=-domain) for domain in range(1, 1001)))
    assert many == dict.fromkeys(range(1001 - alone, 1001), 1)  # those that have waited longest


def test_servers_share_a_lane(tmp_path):
    many = allot(tmp_path, *(wait_for(domain, port=domain) for domain in range(1, 401)))
    assert many == dict.fromkeys(range(1, 401), JOBS_IN_HAND["mail"] // 400)


def test_what_is_not_due_takes_no_share(tmp_path):
    alone = allot(tmp_path, wait_for(1))[1]
    assert allot(tmp_path, wait_for(1), wait_for(2, due_in=5.0)) == {1: alone}
