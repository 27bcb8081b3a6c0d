"""What expires, when, and what stays."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.celery import DatabaseAwayError
from portal.tenants.database import get_conninfo
from portal.tenants.models import MailDomain
from quarantine import retention, tasks
from quarantine.models import Content, Event, Message, Recipient, State
from quarantine.platform.models import HourlyCount, Receipt, Unrouted
from tests.kept_mail import add_recipient, keep
from tests.running_courier import wait_until

UNTAKEN = State.REFUSED, State.UNFINISHED
BOTH = "bob@alpha.test", "bea@beta.test"


def days_ago(days: float):
    return timezone.now() - timedelta(days=days)


def get_states() -> dict[str, str]:
    return dict(Recipient.objects.values_list("address", "state"))


def test_held_mail_expires_after_its_domains_days(acme):
    MailDomain.objects.filter(name="beta.test").update(retention_days=7)
    message = keep(*BOTH, received_at=days_ago(8))
    assert retention.expire_held() == 1
    assert get_states() == {"bob@alpha.test": "quarantined", "bea@beta.test": "expired"}
    assert Content.objects.filter(message=message).exists()
    event = Event.objects.get()
    assert (event.kind, event.text, event.recipient.address) == ("expired", "kept for 7 days", "bea@beta.test")


def test_content_goes_and_rows_stay(acme):
    keep(*BOTH, received_at=days_ago(31))
    assert retention.expire_held() == 2
    assert set(get_states().values()) == {"expired"}
    assert not Content.objects.exists()
    assert retention.expire_held() == 0


@pytest.mark.parametrize("state", sorted(set(State.values) - {"quarantined", "held"}))
def test_nothing_else_expires(acme, state):
    keep("bob@alpha.test", state=state, received_at=days_ago(400), changed_at=days_ago(400))
    assert retention.expire_held() == 0
    assert get_states() == {"bob@alpha.test": state}


def test_refused_mail_is_kept_from_the_refusal_on(acme):
    keep("bob@alpha.test", state=State.HELD, received_at=days_ago(34), changed_at=days_ago(29))
    keep("carol@alpha.test", state=State.HELD, received_at=days_ago(40), changed_at=days_ago(31))
    assert retention.expire_held() == 1
    assert get_states() == {"bob@alpha.test": "held", "carol@alpha.test": "expired"}


def test_mail_of_a_domain_that_left_expires_too(acme):
    keep("bob@alpha.test", received_at=days_ago(31))
    Recipient.objects.update(domain_id=999_999)
    assert retention.expire_held() == 1


def test_piles_go_in_bounded_batches(acme, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(7):
        keep("bob@alpha.test", received_at=days_ago(31))
    assert retention.expire_held() == 7


def test_released_content_is_kept_as_long_as_held_mail(acme):
    keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(29))
    gone = keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(31))
    stays = keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(31))
    add_recipient(stays, "bea@beta.test", state=State.DEFERRED)
    assert retention.drop_outlived() == 1
    assert not Content.objects.filter(message=gone).exists()
    assert Content.objects.count() == 2
    assert set(get_states().values()) == {"released", "deferred"}


def test_outlived_content_is_looked_at_by_the_shortest_retention(acme):
    MailDomain.objects.filter(name="beta.test").update(retention_days=2)
    keep("bea@beta.test", state=State.RELEASED, received_at=days_ago(3))
    assert retention.drop_outlived() == 1


def test_released_mail_of_a_domain_that_left_is_dropped_too(acme):
    keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(31))
    stays = keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(29))
    Recipient.objects.update(domain_id=999_999)
    assert retention.drop_outlived() == 1
    assert Content.objects.get().message == stays


def test_outlived_content_goes_in_bounded_batches_found_by_age(acme, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(4):
        keep(*BOTH, state=State.RELEASED, received_at=days_ago(31))
    with connection.cursor() as cursor, CaptureQueriesContext(connection) as captured:
        cursor.execute(
            "INSERT INTO quarantine_recipient"
            " (message_id, address, mailbox_id, domain_id, received_at, state, action, category)"
            " SELECT message_id, address, mailbox_id, domain_id, received_at, 'delivered', action, category"
            " FROM quarantine_recipient, generate_series(1, 500)"
        )
        cursor.execute("ANALYZE quarantine_recipient")
        cursor.execute("SET LOCAL enable_seqscan = off")
        assert retention.drop_outlived() == 4
        query = next(entry["sql"] for entry in captured if "released.domain_id =" in entry["sql"])
        cursor.execute(f"EXPLAIN {query}")
        assert "recipient_listed_domain" in str(cursor.fetchall())
    assert not Content.objects.exists()


def test_the_task_works_in_its_own_provider(committed):
    with schema_context("sp_acme"):
        keep("bob@alpha.test", received_at=days_ago(31))
    tasks.expire_provider.apply(args=["sp_globex"], throw=True)
    with schema_context("sp_acme"):
        assert get_states() == {"bob@alpha.test": "quarantined"}
    tasks.expire_provider.apply(args=["sp_acme"], throw=True)
    with schema_context("sp_acme"):
        assert get_states() == {"bob@alpha.test": "expired"}


def test_what_nobody_took_is_forgotten_after_ninety_days(acme):
    """Whole, where it was taken for nobody; nothing of a mail that was taken, held or kept for somebody else."""
    for state in UNTAKEN:
        keep("bob@alpha.test", state=state, received_at=days_ago(91), subject="forgotten")
        keep("bob@alpha.test", state=state, received_at=days_ago(89), subject="young")
        mixed = keep("bob@alpha.test", state=state, received_at=days_ago(91), subject="taken for Bea")
        held = add_recipient(mixed, "bea@beta.test")
        for row in (*mixed.recipients.all(), None):
            Event.objects.create(message=mixed, recipient=row, kind="any")
    Content.objects.filter(message__subject__in=["forgotten", "young"]).delete()
    assert retention.forget_untaken() == 4
    assert sorted(Message.objects.values_list("subject", flat=True)) == ["taken for Bea"] * 2 + ["young"] * 2
    assert set(mixed.recipients.all()) == {held}
    assert set(mixed.events.values_list("recipient", flat=True)) == {held.pk, None}
    assert Content.objects.filter(message=mixed).exists()
    assert retention.forget_untaken() == 0


@pytest.mark.parametrize("state", sorted(set(State.values) - set(UNTAKEN)))
def test_what_somebody_took_is_never_forgotten(acme, state):
    row = keep("bob@alpha.test", state=state, received_at=days_ago(1000), changed_at=days_ago(1000)).recipients.get()
    assert retention.forget_untaken() == 0
    assert Recipient.objects.get() == row
    assert Content.objects.exists()


def test_a_pile_of_refusals_goes_in_batches(acme, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(7):
        keep("bob@alpha.test", "bea@beta.test", state=State.REFUSED, received_at=days_ago(91))
    Content.objects.all().delete()
    assert retention.forget_untaken() == 14
    assert not Message.objects.exists()


def test_forgetting_reads_its_index(acme):
    for _ in range(30):
        keep("bob@alpha.test", state=State.REFUSED)
        keep(*BOTH, state=State.DELIVERED, received_at=days_ago(91))
    with connection.cursor() as cursor, CaptureQueriesContext(connection) as captured:
        cursor.execute("ANALYZE quarantine_recipient")
        cursor.execute("SET LOCAL enable_seqscan = off")  # a hundred rows: a real table is longer
        retention.forget_untaken()
        [find] = [query["sql"] for query in captured if "FOR UPDATE" in query["sql"]]
        cursor.execute(f"EXPLAIN {find}")
        assert "recipient_listed_all" in "\n".join(line for (line,) in cursor.fetchall())


def test_the_platform_forgets_refusals_counts_and_receipts_in_their_time(db, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    for days in (89, 91, 91, 91):
        Unrouted.objects.create(trace_id="x", at=days_ago(days), reply="550 no")
    for days in (399, 401, 402, 403):
        HourlyCount.objects.create(hour=days_ago(days), kind="refused", instance="a", count=1)
    for number, hours in enumerate((0.9, 1.1, 2, 3)):
        Receipt.objects.create(fingerprint=bytes([number]), trace_id="x", at=days_ago(hours / 24))
    assert retention.forget_platforms() == {"unrouted": 3, "counts": 3, "receipts": 3}
    assert Unrouted.objects.get().at > days_ago(90)
    assert HourlyCount.objects.get().hour > days_ago(400)
    assert bytes(Receipt.objects.get().fingerprint) == b"\0"


def test_the_tasks_forget_too(db, monkeypatch):
    monkeypatch.setattr(tasks, "note_round", lambda: True)
    with schema_context("sp_acme"):
        keep("bob@alpha.test", state=State.REFUSED, received_at=days_ago(91))
        Content.objects.all().delete()
    Unrouted.objects.create(trace_id="x", at=days_ago(91), reply="550 no")
    tasks.expire_provider("sp_acme")
    tasks.forget_platforms()
    assert not Unrouted.objects.exists()
    with schema_context("sp_acme"):
        assert not Message.objects.exists()


def test_a_rule_that_fails_keeps_no_other_from_being_applied(acme, monkeypatch, caplog):
    def expire_held() -> int:
        raise ValueError("SECRET")

    monkeypatch.setattr(tasks.retention, "expire_held", expire_held)
    keep("bob@alpha.test", state=State.REFUSED, received_at=days_ago(91))
    Content.objects.all().delete()
    tasks.expire_provider("sp_acme")
    assert not Message.objects.exists()
    assert "retention_failed provider=sp_acme rule=expire_held error=ValueError" in caplog.text
    assert "SECRET" not in caplog.text


def end_who_waits(blocker: psycopg.Connection) -> None:
    """End the connection that the lock keeps waiting, as a server that stops does, and let go of the lock."""
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with psycopg.connect(get_conninfo(), autocommit=True) as database:
        wait_until(lambda: database.execute(query).fetchone() != (0,))
    blocker.rollback()


def test_an_outage_ends_the_step_and_is_told_in_one_line(committed, caplog):
    """PostgreSQL goes while the first rule is being applied; the others could not be either."""
    with psycopg.connect(get_conninfo()) as blocker, ThreadPoolExecutor(1) as threads:
        blocker.execute("LOCK sp_acme.quarantine_recipient")
        ending = threads.submit(end_who_waits, blocker)
        with pytest.raises(DatabaseAwayError):
            tasks.expire_provider("sp_acme")
        ending.result()
    connection.close()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING and record.name != "psycopg.pool"]
    assert [(record.levelname, record.getMessage().partition(" error=")[0]) for record in told] == [
        ("WARNING", "task_put_off task=quarantine.tasks.expire_provider")
    ]
