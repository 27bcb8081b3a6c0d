"""Verdicts of many recipients become one answer and one transaction."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest
from django_tenants.utils import schema_context

from filtering.evidence import ContentEvidence, PtrEvidence, PtrStatus
from filtering.learning.classifier import Classifier, get_model_path
from filtering.pipeline import judge
from filtering.verdict import Action, Category, Verdict
from portal.tenants.database import make_pool
from portal.tenants.directory import Directory
from portal.tenants.models import MailDomain
from quarantine.examiners import Examiners
from quarantine.intake import (
    Examined,
    Intake,
    IntakeUnavailableError,
    Recipient,
    Result,
    count_hops,
    decide,
    explain,
    get_header,
)
from quarantine.models import Content
from quarantine.models import Recipient as Row
from quarantine.platform.models import DeliveryJob
from quarantine.records import Transaction
from quarantine.store import Store
from quarantine.trace_id import make_trace_id
from tests.quarantine.gateways import run_gateway

RAW = b"From: ann@sender.test\r\nSubject: x\r\n\r\nx\r\n"
REPLIES = {result: f"250 {result.value}" for result in Result}
NO_PTR = PtrEvidence(PtrStatus.NONE, detail="NXDOMAIN")


def receive(*addresses: str, ptr: PtrEvidence = NO_PTR, raw: bytes = RAW) -> Result:
    async def work() -> Result:
        pool = make_pool(name="test", max_size=2)
        await pool.open()
        directory, store = Directory(pool), Store(pool)
        await store.start()
        classifier = Classifier.load(get_model_path())
        examiners = Examiners(1)
        intake = Intake(pool, directory, store, classifier, examiners, hostname="mx.test")
        transaction = Transaction(make_trace_id(), datetime.now(UTC), "192.0.2.1", "ann@sender.test", ptr=ptr)
        recipients = [Recipient(address, await directory.find(address)) for address in addresses]
        try:
            return (await intake.receive(transaction, recipients, raw, REPLIES)).result
        finally:
            examiners.close()
            await store.close()
            await pool.close()

    return asyncio.run(work())


def list_rows() -> list[tuple[str, str, str]]:
    with schema_context("sp_acme"):
        return list(Row.objects.order_by("id").values_list("address", "state", "action"))


def test_a_message_refused_by_every_verdict_is_refused_and_not_kept(committed):
    assert receive("bob@alpha.test", "bea@beta.test") is Result.REFUSED
    assert list_rows() == [("bob@alpha.test", "refused", "refuse"), ("bea@beta.test", "refused", "refuse")]
    with schema_context("sp_acme"):
        assert Row.objects.values_list("reply", flat=True)[0] == "250 refused"
        assert not Content.objects.exists()
    assert not DeliveryJob.objects.exists()


def test_one_recipient_who_takes_it_makes_the_others_refusal_a_hold(committed):
    MailDomain.objects.filter(name="beta.test").update(ptr_action="off")
    assert receive("bob@alpha.test", "bea@beta.test") is Result.KEPT
    assert list_rows() == [("bob@alpha.test", "quarantined", "refuse"), ("bea@beta.test", "delivering", "deliver")]
    assert DeliveryJob.objects.count() == 1


@pytest.mark.parametrize("order", [1, -1])
def test_the_postmaster_is_judged_apart_from_the_others(committed, order):
    assert receive(*["bob@alpha.test", "postmaster@alpha.test"][::order]) is Result.KEPT
    assert sorted(list_rows()) == [
        ("bob@alpha.test", "quarantined", "refuse"),
        ("postmaster@alpha.test", "delivering", "deliver"),
    ]


@pytest.mark.parametrize("number", [1, 10])
def test_many_recipients_are_not_judged_on_the_event_loop(committed, monkeypatch, number):
    threads = set()

    def judge_and_note(*arguments):
        threads.add(threading.current_thread() is threading.main_thread())
        return judge(*arguments)

    monkeypatch.setattr("quarantine.intake.judge", judge_and_note)
    receive(*[f"bob+{tag}@alpha.test" for tag in range(number)])
    assert threads == {number == 1}
    assert len(list_rows()) == number


@pytest.mark.parametrize(
    ("live", "told"),
    [
        ("SELECT 1, '{}'::jsonb WHERE false", "cause=none_live release=0 error=No policy release is live."),
        ("""SELECT 7, '{"x": 1}'::jsonb""", "cause=broken release=7 error=policy release 7 has unknown fields: x"),
        ("SELECT 7, 'null'::jsonb", "cause=broken release=7 error="),
        ("SELECT 1 FROM no_such_table", "cause=not_read error=UndefinedTable"),
    ],
)
def test_without_a_policy_release_nothing_is_taken_and_the_log_says_why(committed, monkeypatch, caplog, live, told):
    monkeypatch.setattr("quarantine.intake.LIVE_RELEASE", live)
    with pytest.raises(IntakeUnavailableError):
        receive("bob@alpha.test")
    assert list_rows() == []
    assert f"policy_release_unavailable {told}" in caplog.text


def test_mail_is_taken_while_the_public_schema_changes_faster_than_the_release_is_read(committed, monkeypatch):
    ask = Intake._ask_for_release

    async def ask_and_change(self):
        rows = await ask(self)
        self._forget_release()
        return rows

    monkeypatch.setattr(Intake, "_ask_for_release", ask_and_change)
    assert receive("bob@alpha.test") is Result.REFUSED
    assert list_rows() == [("bob@alpha.test", "refused", "refuse")]


@pytest.mark.parametrize(
    ("actions", "hops", "result"),
    [
        ([Action.REFUSE], 100, Result.REFUSED),
        ([Action.REFUSE, Action.QUARANTINE], 0, Result.KEPT),
        ([Action.DELIVER], 100, Result.KEPT),
        ([Action.DELIVER], 101, Result.LOOPING),
    ],
)
def test_one_reply_for_all(actions, hops, result):
    verdicts = [Verdict(action, Category.CLEAN, 0, (), 1) for action in actions]
    assert decide(verdicts, Examined(ContentEvidence(), {}, b"", (0, b""), hops=hops)) is result


@pytest.mark.parametrize(
    ("raw", "hops"),
    [
        (b"", 0),
        (b"Received: a\r\nreceived: b\r\n c\r\n\r\nReceived: in the body\r\n", 2),
        (b"X-Received: a\r\n\r\n", 0),
        (b"Received: a\n\nReceived: in the body\n", 1),
        (b"Subject: x\rReceived: a\r\n\r\n", 1),
        (b"\r\nReceived: in the body\r\n", 0),
    ],
)
def test_hops_are_counted_in_the_header_alone(raw, hops):
    assert count_hops(get_header(raw)) == hops


def test_the_reasons_are_told_in_one_line():
    assert explain(Verdict(Action.DELIVER, Category.CLEAN, 0.0, (), 1)) == "clean, score 0.0"


# What is sent to break parsers: kept whole, and the others are answered meanwhile.

NESTED = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(2000))
EMPTY_PARTS = b'From: a@b.test\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\n' + b"--x\r\n\r\n" * 100_000
COMMAS = b"From: " + b"," * 20_000 + b"\r\n\r\nx\r\n"
FOLDED = b"Subject: x\r\n" + b" folded\r\n" * 500_000 + b"\r\nx\r\n"


@pytest.mark.parametrize(
    "raw", [NESTED, EMPTY_PARTS, COMMAS, FOLDED], ids=["nested", "empty-parts", "commas", "folded"]
)
def test_bad_input_is_kept_whole_while_others_are_answered(committed, raw):
    with run_gateway() as gateway:
        bad, other = gateway.open(), gateway.open()
        replies = bad.talk("MAIL FROM:<x@sender.test>", "RCPT TO:<bob@alpha.test>", "DATA")
        assert [reply[:3] for reply in replies] == ["250", "250", "354"]
        bad.send(raw + b".\r\n")
        assert other.mail(data=RAW).startswith("250 ")
        assert bad.read_reply().startswith("250 2.0.0 Ok: kept as ")
    with schema_context("sp_acme"):
        sizes = sorted(Row.objects.values_list("message__size", flat=True))
    assert sizes == sorted([len(raw), len(RAW)])
