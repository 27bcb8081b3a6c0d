"""The commands, as a script and as a person calls them."""

import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.settings.environment import PROJECT
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, MailboxAlias
from quarantine import tracing
from quarantine.models import Content, Event, Message, Recipient, State
from quarantine.platform.models import DeliveryJob, HourlyCount, Unrouted
from tests.kept_mail import keep, send_off
from tests.portal.browsing import browse, get_text
from tests.running_courier import running_courier
from tests.smtp_sink import Sink


def call(capsys, *arguments: str) -> str:
    call_command(*arguments)
    return capsys.readouterr().out


def call_json(capsys, *arguments: str):
    return json.loads(call(capsys, *arguments, "--json"))


def call_lines(capsys, *arguments: str):
    return [json.loads(line) for line in call(capsys, *arguments, "--json").splitlines()]


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
    [one] = call_lines(capsys, "trace", message.trace_id.lower())
    assert one["trace_id"] == message.trace_id
    assert (one["provider"], one["client_ip"], one["sender"]) == ("acme", "192.0.2.25", "spam@far.test")
    assert one["sha256"] == bytes(message.sha256).hex()
    assert (one["recipient"], one["outcome"], one["label"], one["state"]) == (
        "bob@alpha.test", "held", "Held in quarantine", "quarantined",
    )  # fmt: skip
    assert (one["reply"], one["findings"][0]["check"]) == ("250 2.6.0 kept", "gtube")
    [event] = one["events"]
    assert (event["kind"], event["label"], event["recipient"]) == ("held", "Held in quarantine", "bob@alpha.test")


def test_trace_has_the_same_keys_for_one_and_for_many_and_for_what_reached_nobody(capsys, history):
    """Each recipient has its own part of the story only."""
    with schema_context("sp_acme"):
        message = Message.objects.get(trace_id=history["one"])
        for row in message.recipients.all():
            Event.objects.create(message=message, recipient=row, kind="held", text=f"for {row.address}")
        Event.objects.create(message=message, kind="sent_again")
    many, [one] = call_lines(capsys, "trace", "ann@far.test"), call_lines(capsys, "trace", "bob@alpha.test")
    assert {tuple(sorted(line)) for line in (*many, one)} == {tuple(sorted(one))}
    assert [event["text"] for event in one["events"]] == ["for bob@alpha.test", ""]
    assert (many[-1]["provider"], many[-1]["outcome"], many[-1]["label"]) == ("", "refused", "Refused")
    docs = (PROJECT / "docs/operations.md").read_text().partition("`--json`: one line")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", docs)) >= set(one)


def test_trace_tells_a_person_without_letting_the_sender_write_on_the_terminal(capsys, message):
    told = call(capsys, "trace", message.trace_id)
    assert "bob@alpha.test: held: Held in quarantine (spam 7.5" in told
    assert "gtube 20: Test string" in told
    assert "\x1b" not in told


def test_trace_finds_what_belonged_to_no_provider(capsys, db):
    trace = "01JAAAAAAAAAAAAAAAAA"
    Unrouted.objects.create(trace_id=trace, at=timezone.now(), recipient="x@no.test", reply="550 5.7.1 no")
    assert [line["reply"] for line in call_lines(capsys, "trace", trace)] == ["550 5.7.1 no"]
    assert "550 5.7.1 no" in call(capsys, "trace", trace)


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (
            ["01JAAAAAAAAAAAAAAAAA"],
            r"no trace: trace id 01JAAAAAAAAAAAAAAAAA\. Either we never gave that trace id .*shares one.*Look for",
            1,
        ),
        (
            ["ann@far.test"],
            r"no trace: from or to ann@far.test.*, nor: ann@far.test in the line From, since .*Ask the sender",
            1,
        ),
        (
            ["--sender", "ann@far.test", "--outcome", "held"],
            "no trace: from ann@far.test, outcome “Held in quarantine”",
            1,
        ),
        (["--unrouted"], "no trace: anything", 1),
        (["<zz@far.test>"], "no trace: Message-ID <zz@far.test>.*an address, look for zz@far.test without brackets", 1),
        (["--client", "192.0.2.99"], "no trace: by the server 192.0.2.99.*on record after a minute or so", 1),
        (["01JAAAAAAAAAAAAAAAAA", "--provider", "acme"], "no trace: .*leave --provider out", 1),
        (["a@x.test b@y.test"], "no trace: from a@x.test to b@y.test, or back.*look for the recipient alone", 1),
        (["nothing"], "“nothing” is no trace id, Message-ID, address.*two addresses: from whom and to whom", 2),
        (["far.test"], "type an @ before it: @far.test", 2),
        ([], "Say what to look for, such as an address, or --since 24h: see", 2),
        (["--provider", "acme"], "look for besides --provider acme, such as an address, or --since 24h: see", 2),
        (["--provider", "acme", "--since", "24h"], "no trace: since .*leave --provider out", 1),
        (["--client", "300.0.0.1"], "no IP address", 2),
        (["--sender", "ann"], "no address such as", 2),
        (["x@y.test", "--since", "yesterday"], "'yesterday' is no time", 2),
        (["x@y.test", "--since", "999999d"], "'999999d' is no time", 2),
        (["x@y.test", "--since", "2026-02-30"], "'2026-02-30' is no time", 2),
        (["x@y.test", "--provider", "nobody"], "There is no provider 'nobody'", 2),
        (["x@y.test", "--limit", "0"], "--limit must be from 1", 2),
        (["x@y.test", "--cause", "sent_again"], "invalid choice: 'sent_again'", 1),  # no row has it: it is an event
        (["x@y.test", "--cause", "spite"], "invalid choice: 'spite'", 1),  # 2 in a shell: argparse's own
    ],
)
def test_trace_says_in_a_sentence_what_there_is_not_and_what_it_cannot_read(db, arguments, sentence, code):
    with pytest.raises(CommandError, match=sentence) as caught:
        call_command("trace", *arguments)
    assert caught.value.returncode == code


@pytest.fixture
def history(db):
    """Three mails at two providers, and one for nobody, of one afternoon. Returns their trace ids."""
    at = timezone.now() - timedelta(hours=3)
    with schema_context("sp_acme"):
        one = keep("bob@alpha.test", "carol@alpha.test", sender="Ann@far.test", received_at=at)
        refused = keep(
            "x@beta.test", sender="ben@far.test", received_at=at + timedelta(hours=1), state=State.REFUSED,
            cause="no_mailbox", reply="550 5.1.1 No such mailbox here",
        )  # fmt: skip
        Message.objects.filter(pk=refused.pk).update(client_ip="2001:db8::7", message_id="<9@far.test>")
    with schema_context("sp_globex"):
        other = keep("gus@gamma.test", sender="ann@far.test", received_at=at + timedelta(hours=2))
        Message.objects.filter(pk=other.pk).update(header_from="Ann <ann@office.test>")
    Unrouted.objects.create(
        trace_id="01JAAAAAAAAAAAAAAAAA", at=at, client_ip="192.0.2.25", ptr_status="none", ptr_milliseconds=41,
        sender="ann@far.test", recipient="zoe@no.test", cause="relay_denied", reply="550 5.7.1 no", times=3,
        replies=[["MAIL FROM:<ann@far.test>", "250 2.1.0 ok"]], tls="TLSv1.3",
    )  # fmt: skip
    return {"one": one.trace_id, "refused": refused.trace_id, "other": other.trace_id, "none": "01JAAAAAAAAAAAAAAAAA"}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["ann@FAR.test"], ["other", "one", "one", "none"]),
        (["ann@far.test", "--provider", "globex"], ["other"]),
        (["ann@far.test", "--unrouted"], ["none"]),
        (["--unrouted"], ["none"]),
        (["--unrouted", "--since", "2h"], []),
        (["--sender", "ann@far.test", "--until", "2h"], ["one", "one", "none"]),
        (["--recipient", "bob@alpha.test"], ["one"]),
        (["--recipient", "@gamma.test"], ["other"]),
        (["--recipient", "zoe@no.test"], ["none"]),
        (["ann@far.test bob@alpha.test"], ["one"]),
        (["zoe@no.test ann@far.test"], ["none"]),
        (["<ben@far.test> to <x@beta.test>"], ["refused"]),
        (["--message-id", "9@far.test"], ["refused"]),
        (["<9@far.test>"], ["refused"]),
        (["ann@office.test"], ["other"]),
        (["@far.test"], ["other", "refused", "one", "one", "none"]),
        (["--client", "2001:db8::/64"], ["refused"]),
        (["192.0.2.25"], ["other", "one", "one", "none"]),
        (["--cause", "no_mailbox"], ["refused"]),
        (["--outcome", "refused"], ["refused", "none"]),
        (["--outcome", "held", "--sender", "@far.test"], ["other", "one", "one"]),
    ],
)
def test_trace_finds_mail_at_any_provider_by_what_is_known_of_it(capsys, history, arguments, found):
    """A line for each recipient, newest first; those of one transaction came at one moment."""
    if not found:
        with pytest.raises(CommandError):
            call_command("trace", *arguments)
        return
    call_command("trace", *arguments, "--json")
    told = capsys.readouterr()
    assert [json.loads(line)["trace_id"] for line in told.out.splitlines()] == [history[name] for name in found]
    assert told.err.startswith(f"{len(found)} found: ")


def test_trace_of_several_is_a_line_for_each(capsys, history):
    lines = call(capsys, "trace", "ann@far.test").splitlines()
    assert len(lines) == 5
    assert history["other"] in lines[0]
    assert "globex" in lines[0]
    assert "<ann@far.test> to <gus@gamma.test>" in lines[0]
    assert "refused relay_denied" in lines[3]
    assert lines[3].endswith("<ann@far.test> to <zoe@no.test>  3 times")
    assert lines[4] == "4 found: from or to ann@far.test, or with that as Message-ID. Times are UTC."
    lines = call(capsys, "trace", "ann@far.test", "--limit", "2").splitlines()
    assert lines[2].startswith(
        "2 found, and more: from or to ann@far.test, or with that as Message-ID. Narrow the search, or raise --limit."
    )


def test_trace_of_one_is_its_whole_history(capsys, history):
    with schema_context("sp_acme"):
        message = Message.objects.get(trace_id=history["refused"])
        message.replies = [["MAIL FROM:<ben@far.test>", "250 2.1.0 ok"], ["RCPT TO:<x@beta.test>", "550 5.1.1 no"]]
        message.ptr_status, message.ptr_name, message.ptr_milliseconds = "ok", "mx.far.test", 12
        message.tls = "TLSv1.3"
        message.save()
        Event.objects.create(
            message=message, recipient=message.recipients.get(), kind="refused", text="no such mailbox"
        )
    told = call(capsys, "trace", "x@beta.test")
    for text in (
        f"trace {history['refused']}",
        "client     2001:db8::7, helo mail.far.test, TLS TLSv1.3",
        "PTR        ok mx.far.test (12 ms)",
        "Message-ID <9@far.test>",
        "x@beta.test: refused: Refused",
        "no_mailbox: there is no such mailbox",
        "said       RCPT TO:<x@beta.test>: 550 5.1.1 no",
        "Refused  x@beta.test  no such mailbox",
    ):
        assert text in told
    assert f"mail at acme, received {message.received_at:%Y-%m-%d %H:%M:%S} UTC" in told
    assert "attempts" not in told  # it was ours to answer
    assert f"content    {message.size} octets, SHA-256 {bytes(message.sha256).hex()}" in told
    told = call(capsys, "trace", history["none"])
    assert "PTR        none (41 ms)" in told
    assert "relay_denied: the domain is not ours" in told
    assert "said       MAIL FROM:<ann@far.test>: 250 2.1.0 ok" in told


def test_trace_says_of_mail_that_waits_when_it_is_tried_next(capsys, db):
    with schema_context("sp_acme"):
        kept = send_off("bob@alpha.test", state=State.DEFERRED, reply="451 4.7.1 later", attempts=2)
    call_trace = partial(call, capsys, "trace", kept.trace_id)
    at = datetime(2100, 11, 2, 12, tzinfo=UTC)
    assert "\n    next try due now\n" in call_trace()
    DeliveryJob.objects.update(due_at=at)
    assert "\n    next try 2100-11-02 12:00:00 UTC\n" in call_trace()
    [line] = call_lines(capsys, "trace", kept.trace_id)
    assert (line["next_try"], line["being_tried"]) == ("2100-11-02T12:00:00+00:00", False)
    DeliveryJob.objects.update(claimed_until=at)
    assert "\n    next try being tried now\n" in call_trace()
    [line] = call_lines(capsys, "trace", kept.trace_id)
    assert line["being_tried"] is True
    DeliveryJob.objects.update(schema="sp_globex")
    assert "next try" not in call_trace()


def test_trace_says_how_long_after_the_beginning_something_was_said(capsys, message):
    message.replies = [["", "220 hello", 0.0], ["DATA", "354 go", 3.21], ["end of data", "250 ok", 300], ["A", "B"]]
    with schema_context("sp_acme"):
        message.save()
    told = call(capsys, "trace", message.trace_id)
    for line in ("connection: 220 hello (after 0.0 s)", "DATA: 354 go (after 3.2 s)", "A: B"):
        assert f"\n  said       {line}\n" in told
    assert "end of data: 250 ok (after 5.0 min)" in told


@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({"state": State.REFUSED, "cause": "reverse_dns", "reply": "553 no"}, "to RCPT: 553 no"),
        ({"state": State.UNFINISHED, "cause": "timeout", "reply": "250 ok"}, "250 ok"),
    ],
)
def test_trace_says_nothing_of_a_verdict_where_no_mail_was_judged(capsys, db, fields, reply):
    with schema_context("sp_acme"):
        kept = keep("bob@alpha.test", category="policy", score=0, **fields)
        Message.objects.update(replies=[["RCPT TO:<bob@alpha.test>", "553 no"]])
    told = call(capsys, "trace", kept.trace_id)
    assert re.search(r"^  recipient  bob@alpha\.test: \w+: [\w ]+$", told, re.MULTILINE)
    assert f"\n    reply    {reply}\n" in told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"policy_release": 4, "state": State.DELIVERED, "category": "clean", "score": 1.5}, "clean 1.5, policy 4"),
        ({"policy_release": 4, "state": State.REFUSED, "cause": "reverse_dns"}, "policy 4"),
        ({"policy_release": 0, "state": State.REFUSED, "cause": "no_mailbox"}, ""),
    ],
)
def test_trace_says_by_which_release_of_the_policy_it_was_decided(capsys, db, fields, told):
    with schema_context("sp_acme"):
        kept = keep("bob@alpha.test", **fields)
        page = get_text(browse("bob").get(f"/trace/{kept.recipients.get().pk}/"))
    (line,) = re.findall(r"^  recipient  .*", call(capsys, "trace", kept.trace_id), re.MULTILINE)
    assert line.partition(" (")[2] == (f"{told})" if told else "")
    assert ("<dt>Policy release</dt><dd>4</dd>" in page) is bool(told)
    assert ("Policy release" in page) is bool(told)


def test_trace_leaves_out_what_a_connection_without_mail_has_not(capsys, db):
    trace = "01JAAAAAAAAAAAAAAAAA"
    Unrouted.objects.create(trace_id=trace, at=timezone.now(), outcome="unfinished", cause="no_mail", reply="")
    told = call(capsys, "trace", trace)
    assert "no_mail: the client sent no mail" in told
    for label in ("reply", "recipient", "said", "sender"):
        assert f"\n  {label} " not in told


def test_trace_says_nothing_of_the_content_of_mail_that_was_never_sent(capsys, history):
    with schema_context("sp_acme"):
        Message.objects.filter(trace_id=history["refused"]).update(
            size=0, sha256=None, header_from="", subject="", message_id=""
        )
    told = call(capsys, "trace", "x@beta.test")
    assert "  sender     <ben@far.test>\n" in told
    for label in ("content", "from", "subject", "Message-ID"):
        assert f"\n  {label} " not in told


def test_trace_looks_only_so_far_back_where_it_has_to_look_through_everything(capsys, history):
    with schema_context("sp_acme"):
        old = keep("bob@alpha.test", received_at=timezone.now() - timedelta(days=8), state=State.REFUSED)
    call_command("trace", "--outcome", "refused", "--json")
    told = capsys.readouterr()
    assert old.trace_id not in told.out
    assert "since" in told.err
    told = call_lines(capsys, "trace", "--outcome", "refused", "--since", "9d")
    assert old.trace_id in {line["trace_id"] for line in told}


def test_trace_says_how_far_it_looked_through_and_how_to_go_on(capsys, history, monkeypatch):
    monkeypatch.setattr(tracing, "WALK", 2)
    told = call(capsys, "trace", "--outcome", "refused", "--since", "9d").splitlines()
    assert [line for line in told if history["refused"] in line]
    until = re.search(r"Looked through back to [\d: -]+; look further back with --until (\S+)\. Times", told[-1]).group(
        1
    )
    told = call(capsys, "trace", "--outcome", "refused", "--since", "9d", "--until", until)
    assert history["none"] in told
    told = call(capsys, "trace", "--outcome", "held", "--since", "9d", "--limit", "1").splitlines()
    assert "1 found, and more" in told[-1]
    assert "Looked through" not in told[-1]  # or what lies between would be left out
    with pytest.raises(CommandError, match=r"There is no trace: .*\. Looked through back to .*--until"):
        call_command("trace", "--cause", "loop")


def test_trace_narrows_what_reached_nobody_by_all_that_was_said(capsys, history):
    assert [line["trace_id"] for line in call_lines(capsys, "trace", "zoe@no.test", "--sender", "@far.test")] == [
        history["none"]
    ]
    with pytest.raises(CommandError, match="There is no trace"):
        call_command("trace", "zoe@no.test", "--sender", "@else.test")


def test_activity_adds_up_the_instances_and_shows_what_reached_nobody(capsys, db):
    HourlyCount.objects.all().delete()  # a gateway that has just ended counts its last look-ups after the wipe
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for instance in ("a", "b"):
        count = partial(HourlyCount.objects.create, hour=hour, instance=instance)
        count(schema="sp_acme", domain_id=1, kind="refused", cause="reverse_dns", count=2)
        count(schema="sp_acme", domain_id=2, kind="refused", cause="reverse_dns", count=3)
        count(kind="refused", cause="relay_denied", count=5)
        count(kind="dns", cause="servfail", count=7)
        count(schema="sp_acme", domain_id=1, kind="dns_failed", cause="timeout", count=4)
    count(hour=hour - timedelta(days=3), kind="refused", cause="relay_denied", count=1)
    told = call_json(capsys, "activity")
    assert [(one["provider"], one["kind"], one["cause"], one["count"]) for one in told] == [
        ("", "dns", "servfail", 14), ("", "refused", "relay_denied", 10), ("acme", "dns_failed", "timeout", 8),
        ("acme", "refused", "reverse_dns", 10),
    ]  # fmt: skip
    assert len(call_json(capsys, "activity", "--since", "7d")) == 5
    assert len(call_json(capsys, "activity", "--provider", "acme")) == 2
    lines = call(capsys, "activity").splitlines()
    assert lines[2].endswith("  acme        dns_failed  timeout                          8  no answer in time")
    assert lines[3].split()[:6] == [f"{hour:%Y-%m-%d}", f"{hour:%H}:00", "acme", "refused", "reverse_dns", "10"]
    assert lines[3].endswith("        10  the client has no reverse DNS")
    assert lines[0].endswith("  dns         servfail                        14  the name server failed")


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
