"""A courier that is killed in the middle of its work: nothing is lost, and no more is doubled than there were kills."""

import asyncio
import errno
import os
import random
import re
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from quarantine.delivery import rows
from quarantine.delivery.journal import Journal, Taken, read_journal
from quarantine.delivery.outcome import Outcome, Result
from quarantine.models import Event, Message, Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.full_disk import limited_files
from tests.kept_mail import send_off
from tests.quarantine.couriers import wait_for_state
from tests.running_courier import CourierProcess, running_courier, wait_until
from tests.smtp_sink import Sink

MESSAGES = 250
KILLS = 5
TRACE = re.compile(rb"X-Lazaret-Trace: (\w{20}) by \S+\r\n")


@pytest.mark.faults
def test_a_killed_courier_loses_nothing_and_doubles_at_most_once_a_kill(committed, tmp_path):
    with Sink() as sink, schema_context("sp_acme"):
        MailDomain.objects.update(server_host="127.0.0.1", server_port=sink.port)
        for _ in range(MESSAGES):
            send_off("bob@alpha.test")
        courier = CourierProcess(tmp_path)
        for kill in range(KILLS):
            courier.start()
            sink.wait((kill + 1) * MESSAGES // (KILLS + 2), seconds=30)
            time.sleep(random.uniform(0, 0.02))
            courier.kill()
        courier.start()
        wait_until(lambda: not DeliveryJob.objects.exists(), 30)
        assert courier.stop() == 0
        arrived = Counter(TRACE.search(message.raw)[1].decode() for message in sink.messages)
        assert set(arrived) == set(Message.objects.values_list("trace_id", flat=True))
        assert sum(arrived.values()) - MESSAGES <= KILLS
        assert Recipient.objects.filter(state=State.DELIVERED).count() == MESSAGES
        assert Event.objects.filter(kind="delivered").count() == MESSAGES


def test_what_the_journal_knows_is_not_sent_again(committed, tmp_path):
    with Sink() as sink, schema_context("sp_acme"):
        MailDomain.objects.update(server_host="127.0.0.1", server_port=sink.port)
        known, unknown = send_off("bob@alpha.test"), send_off("carol@alpha.test")
        job = DeliveryJob.objects.get(recipient_id=known.recipients.get().pk)
        left = tmp_path / "3"  # of a courier that nobody started again
        left.mkdir()
        journal = Journal(left / "journal")
        journal.note(Taken(job.pk, "sp_acme", job.recipient_id, "250 2.0.0 once", known.received_at, "mx.test, 0.10 s"))
        with running_courier(tmp_path):
            sink.wait(1)
            wait_until(lambda: not DeliveryJob.objects.exists())
        assert known.recipients.get().state == State.DELIVERED
        assert known.recipients.get().reply == "250 2.0.0 once"
        assert known.events.get().text == "250 2.0.0 once [mx.test, 0.10 s]"
        assert [TRACE.search(message.raw)[1].decode() for message in sink.messages] == [unknown.trace_id]
        assert read_journal(left / "journal") == []
        assert read_journal(tmp_path / "1" / "journal") == []


def test_a_full_disk_keeps_no_courier_from_its_work(committed, tmp_path, monkeypatch, caplog):
    """What it cannot empty it records once more at the next start, in vain."""

    def fail(journal: Journal) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Sink() as sink, schema_context("sp_acme"):
        MailDomain.objects.update(server_host="127.0.0.1", server_port=sink.port)
        known, unknown = send_off("bob@alpha.test"), send_off("carol@alpha.test")
        job = DeliveryJob.objects.get(recipient_id=known.recipients.get().pk)
        left = tmp_path / "3" / "journal"
        left.parent.mkdir()
        journal = Journal(left)
        journal.note(Taken(job.pk, "sp_acme", job.recipient_id, "250 2.0.0 once", known.received_at))
        journal.close()
        with monkeypatch.context() as full:
            full.setattr(Journal, "rewrite", fail)
            with running_courier(tmp_path):
                wait_until(lambda: not DeliveryJob.objects.exists())
        assert "journal_not_rewritten error=No space left on device" in caplog.text
        assert len(read_journal(left)) == 1
        with running_courier(tmp_path):
            wait_until(lambda: not read_journal(left))
        assert [TRACE.search(message.raw)[1].decode() for message in sink.messages] == [unknown.trace_id]
        assert known.events.count() == 1


def test_an_old_line_does_not_release_what_is_released_anew(committed, tmp_path):
    """The job of the line is long gone: the row's new job stays."""
    with Sink() as sink, schema_context("sp_acme"):
        MailDomain.objects.update(server_host="127.0.0.1", server_port=sink.port)
        message = send_off("bob@alpha.test", lane="release", state=State.RELEASING)
        job = DeliveryJob.objects.get()
        (tmp_path / "1").mkdir()
        journal = Journal(tmp_path / "1" / "journal")
        journal.note(Taken(job.pk + 1000, "sp_acme", job.recipient_id, "250 old", message.received_at))
        journal.close()
        with running_courier(tmp_path):
            sink.wait(1)
            wait_until(lambda: message.recipients.get().state == State.RELEASED)
        assert message.recipients.get().reply != "250 old"


def leave_line(home: Path, taken: Taken) -> None:
    """As a courier that was killed left it."""
    (home / "1").mkdir()
    journal = Journal(home / "1" / "journal")
    journal.note(taken)
    journal.close()


@pytest.mark.parametrize(
    "other", [{"recipient": 1_000_000}, {"schema": "sp_globex"}, {"made": datetime(2026, 11, 1, tzinfo=UTC)}]
)
def test_a_line_from_before_a_restore_ends_nobody_elses_job(sink, acme_committed, tmp_path, other):
    """The database gave the job's id anew; it may even have given both ids anew."""
    message = send_off("bob@alpha.test")
    job = DeliveryJob.objects.get()
    taken = Taken(job.pk, "sp_acme", job.recipient_id, "250 old", message.received_at, made=job.created_at)
    leave_line(tmp_path, replace(taken, **other))
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
    assert len(sink.messages) == 1
    assert message.recipients.get().reply != "250 old"
    assert read_journal(tmp_path / "1" / "journal") == []


def test_a_line_of_a_job_that_is_no_more_is_forgotten(sink, acme_committed, tmp_path, caplog):
    message = send_off("bob@alpha.test", state=State.DELIVERED)
    job = DeliveryJob.objects.get()
    taken = Taken(job.pk, "sp_acme", job.recipient_id, "250 old", message.received_at, made=job.created_at)
    job.delete()
    leave_line(tmp_path, taken)
    with running_courier(tmp_path):
        wait_until(lambda: read_journal(tmp_path / "1" / "journal") == [])
    assert f"taken_before provider=sp_acme recipient={job.recipient_id}" in caplog.text
    assert not message.events.exists()


@pytest.mark.parametrize("result", [Result.TAKEN, Result.LATER, Result.VOID])
def test_an_outcome_changes_its_own_job_and_row_only(acme_committed, result):
    async def work() -> list[tuple[Outcome, str]]:
        pools = rows.Pools.make(lock_seconds=2)
        await pools.open()
        try:
            return await rows.record(pools.recording, [outcome], instance="me")
        finally:
            await pools.close()

    ours, theirs = send_off("bob@alpha.test"), send_off("carol@alpha.test")
    DeliveryJob.objects.update(claimed_by="me")
    job = DeliveryJob.objects.get(recipient_id=theirs.recipients.get().pk)
    outcome = Outcome(job.pk, "sp_acme", ours.recipients.get().pk, result, "250 old", ours.received_at)
    assert asyncio.run(work()) == []
    assert set(DeliveryJob.objects.values_list("attempts", flat=True)) == {0}
    assert DeliveryJob.objects.count() == 2
    assert set(Recipient.objects.values_list("state", flat=True)) == {State.DELIVERING}


def test_a_journal_survives_a_torn_line_and_is_rewritten_when_long(tmp_path, monkeypatch):
    monkeypatch.setattr("quarantine.delivery.journal.REWRITE_BYTES", 1000)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    path = tmp_path / "journal"
    journal = Journal(path)
    taken = [Taken(number, "sp_acme", number, "250 ok \u2028 fine", at) for number in range(20)]
    for one in taken:
        journal.note(one)
    with path.open("ab") as file:
        file.write(b"nonsense\n" + b'{"job": 1, "sch')
    assert read_journal(path) == taken
    journal.forget(list(range(15)))
    assert read_journal(path) == taken[15:]
    journal.note(taken[0])
    assert read_journal(path) == [*taken[15:], taken[0]]
    journal.forget(list(range(20)))
    assert path.stat().st_size == 0


def test_a_line_that_a_full_disk_cuts_short_costs_no_other(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    taken = [Taken(number, "sp_acme", number, "250 ok", datetime(2026, 11, 1, tzinfo=UTC)) for number in range(3)]
    journal.note(taken[0])
    with limited_files(octets=path.stat().st_size + 10):
        journal.note(taken[1])
    journal.note(taken[2])
    assert read_journal(path) == [taken[0], taken[2]]


def test_a_journal_that_a_full_disk_keeps_from_being_rewritten_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("quarantine.delivery.journal.REWRITE_BYTES", 100)
    path = tmp_path / "journal"
    journal = Journal(path)
    taken = [Taken(number, "sp_acme", number, "250 ok", datetime(2026, 11, 1, tzinfo=UTC)) for number in range(20)]
    for one in taken[:10]:
        journal.note(one)
    with limited_files(octets=50):
        journal.forget([0])
    journal.note(taken[10])
    assert read_journal(path)[-1] == taken[10]
    assert [entry.name for entry in tmp_path.iterdir()] == ["journal"]
    journal.forget([1])
    assert read_journal(path) == taken[2:11]


def test_a_disk_that_cannot_be_flushed_holds_nobody_up(tmp_path, monkeypatch, caplog):
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fdatasync", fail)
    journal = Journal(tmp_path / "journal")
    journal.note(Taken(1, "sp_acme", 1, "250 ok", datetime(2026, 11, 1, tzinfo=UTC)))
    asyncio.run(asyncio.wait_for(journal.flush(), 5))
    journal.close()
    assert "journal_not_flushed error=Input/output error" in caplog.text


def test_what_was_noted_is_flushed_before_the_next_is_sent(committed, tmp_path, monkeypatch):
    """Each message's line is on disk before the server sees the next one's final dot."""
    seen: list[str] = []
    flush = os.fdatasync
    monkeypatch.setattr("os.fdatasync", lambda handle: (flush(handle), seen.append("flushed")))
    monkeypatch.setattr("quarantine.delivery.server.DOT_SECONDS", 60)
    with Sink() as sink, schema_context("sp_acme"):
        sink.on("DOT", lambda _: seen.append("dot"))
        MailDomain.objects.update(server_host="127.0.0.1", server_port=sink.port)
        for number in range(3):
            send_off("bob@alpha.test", raw=f"A: {number}\r\n\r\n".encode())
        with running_courier(tmp_path):
            wait_until(lambda: not DeliveryJob.objects.exists())
    assert seen == ["dot", "flushed"] * 3
