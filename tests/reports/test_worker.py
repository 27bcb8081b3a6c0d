"""Reports by a real Celery worker on a real Valkey, and by several workers at once on one database."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import time_machine
from celery import current_app
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from django_tenants.utils import schema_context
from kombu.exceptions import OperationalError

from portal.tenants.database import get_conninfo
from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import Mailbox, User
from quarantine.models import Message, MessageKind
from quarantine.platform.models import DeliveryJob
from quarantine.platform.tasks import heartbeat
from reports import digests, queries, tasks
from reports.models import Digest
from reports.schedule import request_digest, reschedule
from tests.reports.held import HOUR, get_mailbox, hold, list_handed_over, read_text

PROJECT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of its own, which takes what this process enqueues."""
    with run_worker(tmp_path / "log", NAME=connection.settings_dict["NAME"]) as process:
        yield process


@contextmanager
def run_worker(log_file: Path, **database: Any) -> Iterator[subprocess.Popen[bytes]]:
    program = (
        "import json, sys; from portal.settings import test;"
        " test.DATABASES['default'] |= json.loads(sys.argv.pop(1));"
        " from celery.__main__ import main; main()"
    )
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(database), "-A", "portal.celery", "worker",
             "--queues", "digest", "--pool", "solo", "--without-gossip", "--without-mingle"],
            cwd=PROJECT, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def count_sent() -> int:
    with schema_context("sp_acme"):
        return Digest.objects.filter(state="sent").count()


def test_a_report_asked_for_is_handed_over_by_the_worker(worker):
    with schema_context("sp_acme"):
        bob = get_mailbox()
        hold(bob, subject="Offer")
        assert request_digest(Mailbox.objects.filter(pk=bob.pk), by=User.objects.get(email="bob@alpha.test")) == 1
    wait_for(lambda: count_sent() == 1)
    with schema_context("sp_acme"):
        digest = Digest.objects.get()
        assert "Offer" in read_text(digest)
        assert DeliveryJob.objects.get(schema="sp_acme").lane == "digest"
        assert [message.pk for message in list_handed_over()] == [digest.message_id]


def test_while_the_database_is_away_the_worker_says_so_and_tells_of_no_fault(tmp_path):
    log = tmp_path / "log"
    with run_worker(log, PORT=1, OPTIONS={"pool": {"min_size": 0, "max_size": 2, "timeout": 0.2}}):
        for task in (heartbeat, heartbeat, tasks.dispatch_due_digests):
            task.apply_async(queue="digest")
        wait_for(lambda: "dispatch_due_digests" in log.read_text().partition(" ready.")[2])
    lines = log.read_text().splitlines()
    assert not [line for line in lines if "Traceback" in line or "ERROR" in line]
    told = [line.partition("WARNING ")[2] for line in lines if "heartbeat_failed" in line or "task_put_off" in line]
    assert [line.split(" instance=")[0] for line in told] == [
        "quarantine.platform.heartbeat heartbeat_failed part=worker",
        "portal.celery task_put_off task=reports.tasks.dispatch_due_digests error=PoolTimeout",
    ]


def test_the_dispatcher_has_all_providers_reported_once(worker):  # Q22
    for schema in ("sp_acme", "sp_globex"):
        with schema_context(schema):
            Mailbox.objects.update(next_digest_at=timezone.now(), created_at=timezone.now() - HOUR)
    tasks.dispatch_due_digests()
    tasks.dispatch_due_digests()
    wait_for(lambda: count_sent() == 4)
    with schema_context("sp_globex"):
        wait_for(lambda: Digest.objects.filter(state="sent").count() == 1)
        assert Digest.objects.get().mailbox.address == "gus@gamma.test"
    tasks.dispatch_due_digests()
    time.sleep(1)
    assert count_sent() == 4


def test_workers_at_the_same_time_make_one_report_a_slot():  # Q22
    with schema_context("sp_acme"):
        domain = get_mailbox().domain_id
        Mailbox.objects.bulk_create(Mailbox(address=f"user{n}@alpha.test", domain_id=domain) for n in range(60))
        Mailbox.objects.update(next_digest_at=timezone.now(), created_at=timezone.now() - HOUR)
        for mailbox in Mailbox.objects.all():
            hold(mailbox, at=timezone.now() - HOUR / 2)
    made: list[int] = []
    start = threading.Barrier(4)

    def work() -> None:
        with schema_context("sp_acme"):
            start.wait()
            while found := digests.send_due(limit=7):
                made.append(found)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with schema_context("sp_acme"):
        assert sum(made) == Digest.objects.count() == Message.objects.filter(kind=MessageKind.DIGEST).count() == 64
        assert Digest.objects.values("mailbox").distinct().count() == 64
        assert set(Digest.objects.values_list("held", flat=True)) == {1}


def test_an_hour_changed_while_the_report_is_made_gives_no_second_one_that_day():
    with time_machine.travel(datetime(2026, 11, 23, 7, tzinfo=UTC), tick=False) as clock, schema_context("sp_acme"):
        bob = get_mailbox()
        domain = MailDomain.objects.filter(pk=bob.domain_id)
        domain.update(digest_hour=7)
        Mailbox.objects.exclude(pk=bob.pk).update(next_digest_at=timezone.now() + 24 * HOUR)
        Mailbox.objects.filter(pk=bob.pk).update(next_digest_at=timezone.now(), created_at=timezone.now() - HOUR)

        def change_hour() -> None:
            with schema_context("sp_acme"):
                domain.update(digest_hour=9)
                reschedule(Mailbox.objects.filter(pk=bob.pk))
            connection.close()

        person = threading.Thread(target=change_hour)
        with transaction.atomic():
            assert digests.send_due() == 1
            person.start()
            wait_for_lock()
        person.join()
        clock.shift(2 * HOUR)
        digests.send_due()
        assert bob.digests.count() == 1


def wait_for_lock() -> None:
    """Until some session of the database waits for another."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(get_conninfo(), autocommit=True) as onlooker:
        for _ in range(600):
            if onlooker.execute(waiting).fetchone():
                return
            time.sleep(0.05)
    raise AssertionError("nobody waited")


def test_mail_may_arrive_while_a_report_is_being_made():
    """The mailbox's row is locked in a way that a recipient row's key does not wait for."""
    with schema_context("sp_acme"):
        bob = get_mailbox()
        Mailbox.objects.update(next_digest_at=timezone.now(), created_at=timezone.now() - HOUR)
        with transaction.atomic():
            assert digests.send_due() == 4
            with psycopg.connect(get_conninfo(), autocommit=True) as gateway:
                gateway.execute("SET lock_timeout = '2s'")
                gateway.execute("SELECT id FROM sp_acme.people_mailbox WHERE id = %s FOR KEY SHARE", [bob.pk])


def test_with_the_broker_away_the_rows_wait_for_the_dispatcher(monkeypatch):
    def fail(*args, **options) -> None:
        raise OperationalError

    with schema_context("sp_acme"), monkeypatch.context() as broken:
        broken.setattr(tasks.send_requested_digests, "apply_async", fail)
        assert request_digest(Mailbox.objects.filter(address="bob@alpha.test"), by=None) == 1
    with schema_context("sp_acme"):
        assert Digest.objects.get().state == "due"


@pytest.mark.parametrize("schemas_a_query", [1, 200])
def test_a_provider_without_its_tables_keeps_no_others_reports_back(monkeypatch, schemas_a_query):
    monkeypatch.setattr(queries, "SCHEMAS_A_QUERY", schemas_a_query)
    chains = []
    monkeypatch.setattr(tasks.send_due_digests, "apply_async", lambda args, **options: chains.append(args))
    ServiceProvider.objects.bulk_create([ServiceProvider(slug="aaa", schema_name="sp_aaa", name="AAA half made")])
    try:
        tasks.dispatch_due_digests()
        tasks.expire_links()
    finally:
        ServiceProvider.objects.filter(slug="aaa").delete()
    assert sorted(chains) == [("sp_acme",), ("sp_globex",)]


@pytest.mark.parametrize("table", ["people_mailbox", "reports_digest"])
def test_a_provider_with_locked_tables_keeps_no_others_reports_back(monkeypatch, caplog, table):
    """Nor does looking for what is due keep anybody from a table."""
    chains = []
    monkeypatch.setattr(tasks.send_due_digests, "apply_async", lambda args, **options: chains.append(args))
    with psycopg.connect(get_conninfo()) as database:
        database.execute(f"LOCK TABLE sp_acme.{table} IN ACCESS EXCLUSIVE MODE")
        tasks.dispatch_due_digests()
        database.execute(f"LOCK TABLE sp_globex.{table} IN ACCESS EXCLUSIVE MODE NOWAIT")
    assert chains == [("sp_globex",)]
    assert "provider_skipped schema=sp_acme error=LockedError" in caplog.text
    tasks.dispatch_due_digests()
    assert sorted(chains[1:]) == [("sp_acme",), ("sp_globex",)]


def test_pages_and_commands_enqueue_at_our_broker():
    assert current_app.main == "lazaret"
    assert current_app.conf.broker_url == settings.BROKER_URL
