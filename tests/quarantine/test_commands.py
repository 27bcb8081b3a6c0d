"""The commands, as a script and as a person calls them."""

import json

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, MailboxAlias
from quarantine.models import Content, Event, Recipient, State
from quarantine.platform.models import DeliveryJob, Unrouted
from tests.kept_mail import keep
from tests.running_courier import running_courier
from tests.smtp_sink import Sink


def call(capsys, *arguments: str) -> str:
    call_command(*arguments)
    return capsys.readouterr().out


def call_json(capsys, *arguments: str):
    return json.loads(call(capsys, *arguments, "--json"))


@pytest.fixture
def message(db):
    with schema_context("sp_acme"):
        kept = keep(
            "bob@alpha.test",
            subject="Buy \x1b[2J now",
            reply="250 2.6.0 kept",
            findings=[{"check": "gtube", "points": 20, "text": "Test string"}],
        )
        Event.objects.create(message=kept, recipient=kept.recipients.get(), kind="held", text="spam 20.0")
        return kept


def test_trace_tells_everything_as_json(capsys, message):
    told = call_json(capsys, "trace", message.trace_id.lower())
    assert told["trace_id"] == message.trace_id
    assert told["unrouted"] == []
    [one] = told["messages"]
    assert (one["provider"], one["client_ip"], one["sender"]) == ("acme", "192.0.2.25", "spam@far.test")
    assert one["sha256"] == bytes(message.sha256).hex()
    [recipient] = one["recipients"]
    assert (recipient["address"], recipient["state"]) == ("bob@alpha.test", "quarantined")
    assert (recipient["reply"], recipient["findings"][0]["check"]) == ("250 2.6.0 kept", "gtube")
    assert [(event["kind"], event["recipient"]) for event in one["events"]] == [("held", "bob@alpha.test")]


def test_trace_tells_a_person_without_letting_the_sender_write_on_the_terminal(capsys, message):
    told = call(capsys, "trace", message.trace_id)
    assert "bob@alpha.test: quarantined (spam 7.5" in told
    assert "gtube 20: Test string" in told
    assert "\x1b" not in told


def test_trace_finds_what_belonged_to_no_provider(capsys, db):
    trace = "01JAAAAAAAAAAAAAAAAA"
    Unrouted.objects.create(trace_id=trace, at=timezone.now(), recipient="x@no.test", reply="550 5.7.1 no")
    assert call_json(capsys, "trace", trace)["unrouted"][0]["reply"] == "550 5.7.1 no"
    assert "550 5.7.1 no" in call(capsys, "trace", trace)


def test_trace_says_what_there_is_not(db):
    with pytest.raises(CommandError, match="There is no trace 'nothing'"):
        call_command("trace", "nothing")


def test_quarantine_lists_a_mailbox_by_any_of_its_addresses(capsys, db):
    with schema_context("sp_acme"):
        MailboxAlias.objects.create(address="rob@alpha.test", mailbox=Mailbox.objects.get(address="bob@alpha.test"))
        older, newer = keep("bob@alpha.test", subject="one"), keep("bob@alpha.test", subject="two")
        keep("bob@alpha.test", state=State.RELEASED)
        keep("carol@alpha.test")
    told = call_json(capsys, "quarantine", "Rob@Alpha.test")
    assert [row["trace_id"] for row in told["messages"]] == [newer.trace_id, older.trace_id]
    assert (told["mailbox"], told["more"]) == ("bob@alpha.test", False)
    told = call_json(capsys, "quarantine", "bob@alpha.test", "--limit", "1")
    assert ([row["subject"] for row in told["messages"]], told["more"]) == (["two"], True)
    told = call_json(capsys, "quarantine", "bob@alpha.test", "--search", "one")
    assert [row["subject"] for row in told["messages"]] == ["one"]
    assert "2 held for bob@alpha.test." in call(capsys, "quarantine", "bob@alpha.test")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bob@nowhere.test"], "No provider has the domain 'nowhere.test'"),
        (["nobody@alpha.test"], "There is no mailbox 'nobody@alpha.test'"),
        (["bob@alpha.test", "--limit", "0"], "--limit must be from 1"),
    ],
)
def test_quarantine_says_what_is_wrong(db, arguments, sentence):
    with pytest.raises(CommandError, match=sentence):
        call_command("quarantine", *arguments)


def test_release_without_waiting_says_that_it_is_on_its_way(capsys, message):
    told = call_json(capsys, "release", message.trace_id, "Bob@alpha.test", "--wait", "0")
    assert told == {
        "trace_id": message.trace_id, "recipient": "Bob@alpha.test", "state": "releasing", "reply": "",
        "released": False,
    }  # fmt: skip
    with schema_context("sp_acme"):
        assert Recipient.objects.get().changed_by == "operator"
    assert DeliveryJob.objects.count() == 1


def test_release_tells_what_the_recipients_server_answered(capsys, committed, tmp_path):
    with Sink() as sink, running_courier(tmp_path):
        MailDomain.objects.filter(name="alpha.test").update(server_port=sink.port)
        with schema_context("sp_acme"):
            taken, refused = keep("bob@alpha.test"), keep("bob@alpha.test")
        assert "is released to bob@alpha.test: 250 " in call(capsys, "release", taken.trace_id, "bob@alpha.test")
        sink.on("RCPT", "550 5.1.1 nobody here")
        with pytest.raises(CommandError, match=r"mail server refused .*: 550 5\.1\.1 nobody here"):
            call_command("release", refused.trace_id, "bob@alpha.test")


def test_release_says_why_not(message):
    with pytest.raises(CommandError, match="There is no message"):
        call_command("release", message.trace_id, "carol@alpha.test")
    with schema_context("sp_acme"):
        Content.objects.all().delete()
    with pytest.raises(CommandError, match="Its content is gone"):
        call_command("release", message.trace_id, "bob@alpha.test")
    with schema_context("sp_acme"):
        Recipient.objects.update(state=State.DELETED)
    with pytest.raises(CommandError, match="It is not in quarantine, but: deleted"):
        call_command("release", message.trace_id, "bob@alpha.test")
