"""Mail in over a real socket: what is answered, and what is in the rows afterwards."""

from __future__ import annotations

import asyncio

import pytest
from django.core.management import call_command
from django_tenants.utils import schema_context

from filtering.policy.models import PolicyRelease
from portal.tenants.models import MailDomain
from portal.tenants.people.models import MailboxAlias, SenderRule
from quarantine.gateway.limits import Limits
from quarantine.models import Content, Event, Message, Recipient
from quarantine.platform.models import DeliveryJob, Unrouted
from quarantine.queries import read_raw
from tests.portal.browsing import browse, get_text
from tests.quarantine.gateways import run_gateway, run_name_server

pytestmark = pytest.mark.usefixtures("committed")

HEADER = b"From: Ann <ann@sender.test>\r\nTo: bob@alpha.test\r\nSubject: lunch\r\nMessage-ID: <1@sender.test>\r\n"
CLEAN = HEADER + b"\r\nNoon?\r\n"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
SPAM = b"From: x@sender.test\r\nSubject: test\r\n\r\n" + GTUBE + b"\r\n"
WITH_PTR, WITHOUT_PTR, FAILING = "192.0.2.1", "192.0.2.2", "192.0.2.3"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    limits = Limits(message_octets=1_000_000)
    with django_db_blocker.unblock(), run_name_server() as names, run_gateway(limits=limits) as running:
        names.names = {WITH_PTR: "mx.sender.test", FAILING: None}
        yield running


def list_rows(schema: str = "sp_acme") -> list[tuple[str, str]]:
    with schema_context(schema):
        rows = Recipient.objects.exclude(state="unfinished")  # what was taken or refused
        return list(rows.order_by("id").values_list("address", "state"))


def get_trace_id(reply: str) -> str:
    assert reply.startswith("250 2.0.0 Ok: kept as "), reply
    return reply.rpartition(" ")[2]


def read_back(reply: str, schema: str = "sp_acme") -> bytes:
    with schema_context(schema):
        return read_raw(Message.objects.get(trace_id=get_trace_id(reply)))


def test_clean_mail_is_kept_and_queued_for_delivery(gateway):
    reply = gateway.open().mail(data=CLEAN)
    with schema_context("sp_acme"):
        message = Message.objects.get(trace_id=get_trace_id(reply))
        recipient = message.recipients.select_related("mailbox").get()
        events = list(message.events.values_list("kind", flat=True))
    assert (message.sender, message.subject, message.size) == ("ann@sender.test", "lunch", len(CLEAN))
    assert (str(message.client_ip), message.helo, message.ptr_status) == ("127.0.0.1", "client.test", "skipped")
    assert (recipient.address, recipient.state) == ("bob@alpha.test", "delivering")
    assert recipient.mailbox.address == "bob@alpha.test"
    assert recipient.received_at == message.received_at
    assert message.policy_release == recipient.policy_release == 1
    assert events == ["accepted"]
    job = DeliveryJob.objects.get()
    assert (job.schema, job.recipient_id, job.lane) == ("sp_acme", recipient.pk, "mail")
    assert job.domain_id == recipient.domain_id


def test_spam_is_held_with_its_reasons(gateway):
    reply = gateway.open().mail(data=SPAM)
    with schema_context("sp_acme"):
        recipient = Recipient.objects.get()
        event = Event.objects.get()
    assert (recipient.state, recipient.action, recipient.category) == ("quarantined", "quarantine", "sure_spam")
    assert "gtube" in [finding["check"] for finding in recipient.findings]
    assert event.kind == "held"
    assert event.text.startswith("sure spam, score ")
    assert read_back(reply) == SPAM
    assert not DeliveryJob.objects.exists()


def test_the_domain_decides_what_becomes_of_spam(gateway):
    MailDomain.objects.filter(name="beta.test").update(sure_spam_action="tag")
    gateway.wait_for_change("bea@beta.test", lambda found: found.domain.sure_spam_action == "tag")
    gateway.open().mail("x@sender.test", "bob@alpha.test", "bea@beta.test", data=SPAM)
    assert list_rows() == [("bob@alpha.test", "quarantined"), ("bea@beta.test", "delivering")]
    assert DeliveryJob.objects.count() == 1


def test_a_rule_holds_for_its_mailbox_alone(gateway):
    with schema_context("sp_acme"):
        bob = Recipient._meta.get_field("mailbox").related_model.objects.get(address="bob@alpha.test")
        SenderRule.objects.create(action="block", pattern="ann@sender.test", mailbox=bob)
    gateway.wait_for_change("bob@alpha.test", lambda found: found.rules)
    gateway.open().mail("ann@sender.test", "bob@alpha.test", "carol@alpha.test", data=CLEAN)
    assert list_rows() == [("bob@alpha.test", "quarantined"), ("carol@alpha.test", "delivering")]


def test_recipients_of_two_providers_are_kept_apart(gateway):
    reply = gateway.open().mail("ann@sender.test", "bob@alpha.test", "gus@gamma.test", "carol@alpha.test", data=CLEAN)
    assert list_rows("sp_acme") == [("bob@alpha.test", "delivering"), ("carol@alpha.test", "delivering")]
    assert list_rows("sp_globex") == [("gus@gamma.test", "delivering")]
    assert read_back(reply, "sp_acme") == read_back(reply, "sp_globex") == CLEAN
    assert sorted(DeliveryJob.objects.values_list("schema", flat=True)) == ["sp_acme", "sp_acme", "sp_globex"]


def test_a_recipient_said_twice_is_kept_once(gateway):
    gateway.open().mail("ann@sender.test", "bob@alpha.test", "BOB@Alpha.Test", data=CLEAN)
    assert list_rows() == [("bob@alpha.test", "delivering")]


def test_addresses_lead_to_their_mailbox_as_they_were_given(gateway):
    with schema_context("sp_acme"):
        bob = Recipient._meta.get_field("mailbox").related_model.objects.get(address="bob@alpha.test")
        MailboxAlias.objects.create(address="sales@alpha.test", mailbox=bob)
    gateway.open().mail("ann@sender.test", "Sales@Alpha.test", "bob+x@alpha.test", "postmaster", data=CLEAN)
    with schema_context("sp_acme"):
        rows = list(Recipient.objects.order_by("id").values_list("address", "mailbox__address"))
    assert rows == [
        ("Sales@Alpha.test", "bob@alpha.test"),
        ("bob+x@alpha.test", "bob@alpha.test"),
        ("postmaster@alpha.test", None),
    ]


def test_the_null_sender_is_the_empty_string(gateway):
    gateway.open().mail("", data=CLEAN)
    with schema_context("sp_acme"):
        assert Message.objects.get().sender == ""


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\r\n",
        b"no header at all\r\n",
        HEADER + b"\r\n.\r\n..\r\n...x\r\n.y\r\n",
        HEADER + b"\r\nbare\nline feeds\n.\nand\rreturns\r.\r\nand \n.\r\nall of them\r\n.\n\r\n",
        HEADER + b"\r\nNUL \0 and \xff\xfe\x80 octets\r\n",
        b"Subject: \0\xed\xa0\x80 \xff\r\nFrom: \0@\xff\r\nMessage-ID: <\0>\r\n\r\nx\r\n",
        HEADER + b"\r\n" + b"x" * 70_000 + b"\r\n",
        HEADER + b"\r\n" + b"\r\r\n.\r\r\n" + b"\r\n\0.\r\n" + b"\r\n.\0\r\n",
    ],
    ids=["empty", "line", "no-header", "dots", "bare", "octets", "header", "long-line", "near-ends"],
)
def test_the_octets_kept_are_the_octets_received(gateway, octets):
    client = gateway.open()
    assert read_back(client.mail(data=octets)) == octets
    assert client.ask("NOOP") == "250 2.0.0 Ok"


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_the_end_is_found_however_it_is_cut(gateway, step):
    client = gateway.open()
    client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>", "DATA")
    wire = b"Subject: x\r\n\r\nbody\r\n.\r\n"
    for start in range(0, len(wire), step):
        client.send(wire[start : start + step])
    assert read_back(client.read_reply()) == wire[:-3]


def test_a_message_too_big_is_refused_after_it_was_read(gateway):
    client = gateway.open()
    big = b"x" * 998 + b"\r\n"
    replies = [client.mail(data=CLEAN + big * 1001), client.mail(data=CLEAN)]
    assert replies[0] == "552 5.3.4 Message is larger than this server accepts"
    assert replies[1].startswith("250 ")
    assert list_rows() == [("bob@alpha.test", "refused"), ("bob@alpha.test", "delivering")]
    with schema_context("sp_acme"):
        assert Content.objects.count() == 1


def test_loops_are_broken_after_a_hundred_hops(gateway):
    client, line = gateway.open(), b"Received: from a by b\r\n"
    assert client.mail(data=line * 100 + CLEAN).startswith("250 ")
    assert client.mail(data=line * 101 + CLEAN) == "554 5.4.6 Routing loop: too many Received headers"
    assert list_rows() == [("bob@alpha.test", "delivering"), ("bob@alpha.test", "refused")]


def test_an_unknown_mailbox_is_refused_and_on_record(gateway):
    client = gateway.open()
    client.ask("MAIL FROM:<ann@sender.test>")
    assert client.ask("RCPT TO:<nobody@alpha.test>") == "550 5.1.1 No such mailbox here"
    with schema_context("sp_acme"):
        recipient = Recipient.objects.select_related("message").get()
        event = Event.objects.get()
    assert (recipient.address, recipient.state) == ("nobody@alpha.test", "refused")
    assert recipient.reply == f"550 5.1.1 No such mailbox here (trace {client.trace_id})"
    assert (recipient.message.sender, str(recipient.message.client_ip)) == ("ann@sender.test", "127.0.0.1")
    assert event.kind == "refused"


def test_relaying_is_denied_and_on_the_operators_record(gateway):
    client = gateway.open()
    client.ask("MAIL FROM:<ann@sender.test>")
    reply = client.ask("RCPT TO:<you@elsewhere.test>")
    assert reply == "550 5.7.1 Relaying denied: we take no mail for this domain"
    refusal = Unrouted.objects.get()
    assert (refusal.sender, refusal.recipient) == ("ann@sender.test", "you@elsewhere.test")
    assert refusal.reply == f"{reply} (trace {client.trace_id})"


def test_refused_and_accepted_recipients_share_one_message(gateway):
    client = gateway.open()
    client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<nobody@alpha.test>", "RCPT TO:<none@alpha.test>")
    reply = client.talk("RCPT TO:<bob@alpha.test>", "DATA") and client.send_data(CLEAN)
    with schema_context("sp_acme"):
        message = Message.objects.get()
    assert message.trace_id == get_trace_id(reply)
    assert (message.subject, message.size, message.policy_release) == ("lunch", len(CLEAN), 1)
    assert read_back(reply) == CLEAN
    assert list_rows() == [
        ("nobody@alpha.test", "refused"),
        ("none@alpha.test", "refused"),
        ("bob@alpha.test", "delivering"),
    ]


def test_a_client_without_reverse_dns_is_refused_at_rcpt_and_on_record(gateway, capsys):
    client = gateway.open(WITHOUT_PTR)
    replies = client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>", "DATA", "QUIT")
    refusal = replies[1]
    assert refusal.startswith("553 5.3.0 Message rejected. ")
    assert "http://acme.localhost" in refusal
    assert refusal.endswith(
        f"/help/reverse-dns?ip={WITHOUT_PTR} for what to do. Reason: (1) Could not resolve PTR record for {WITHOUT_PTR}"
    )
    assert replies[2:] == ["554 5.5.1 No valid recipients", "221 2.0.0 Bye"]
    with schema_context("sp_acme"):
        recipient = Recipient.objects.select_related("message").get()
    assert (recipient.state, recipient.policy_release) == ("refused", 1)
    assert recipient.reply == f"{refusal} (trace {recipient.message.trace_id})"
    assert recipient.findings[0]["learn"] is False
    message = recipient.message
    assert (message.ptr_status, str(message.client_ip), message.sender) == ("none", WITHOUT_PTR, "ann@sender.test")
    page = get_text(browse("bob").get(f"/trace/{recipient.pk}/"))
    happened = page.partition('<ol class="trace">')[2].partition("</ol>")[0]
    assert happened.count(f"Could not resolve PTR record for {WITHOUT_PTR}") == 1
    assert happened.count(message.trace_id) == 1
    assert "<dt>Policy release</dt><dd>1</dd>" in page
    call_command("trace", message.trace_id)
    assert "  recipient  bob@alpha.test: refused: Refused (policy 1)\n" in capsys.readouterr().out


@pytest.mark.parametrize(("ip", "status"), [(WITH_PTR, "ok"), (FAILING, "unknown"), ("10.1.2.3", "skipped")])
def test_nobody_is_refused_whose_reverse_dns_is_there_or_not_known(gateway, ip, status):
    assert gateway.open(ip).mail(data=CLEAN).startswith("250 ")
    with schema_context("sp_acme"):
        assert Message.objects.get().ptr_status == status


def test_postmaster_can_be_reached_without_reverse_dns(gateway):
    client = gateway.open(WITHOUT_PTR)
    assert client.mail("ann@sender.test", "postmaster@alpha.test", data=CLEAN).startswith("250 ")
    assert list_rows() == [("postmaster@alpha.test", "delivering")]


def test_received_headers_are_never_asked_for_reverse_dns(gateway):
    inner = b"Received: from inner (inner [192.0.2.2]) by edge.sender.test\r\n"
    assert gateway.open(WITH_PTR).mail(data=inner + CLEAN).startswith("250 ")
    assert list_rows() == [("bob@alpha.test", "delivering")]


def test_a_new_policy_release_holds_at_once(gateway, django_db_blocker):
    live = PolicyRelease.objects.get(is_live=True)
    gateway.open().mail(data=CLEAN)
    PolicyRelease.objects.filter(pk=live.pk).update(is_live=False)
    relaxed = dict(live.content, ptr=dict(live.content["ptr"], action="off"))
    added = PolicyRelease.objects.create(number=2, content=relaxed, is_live=True)
    try:
        gateway.run(wait_for_release(gateway, 2))
        assert gateway.open(WITHOUT_PTR).mail(data=CLEAN).startswith("250 ")
    finally:
        added.delete()
        PolicyRelease.objects.filter(pk=live.pk).update(is_live=True)
        gateway.run(wait_for_release(gateway, 1))
    with schema_context("sp_acme"):
        assert list(Recipient.objects.order_by("id").values_list("policy_release", flat=True)) == [1, 2]


async def wait_for_release(gateway, number):
    while (await gateway.services.intake.get_release()).number != number:  # noqa: ASYNC110 - nothing says when
        await asyncio.sleep(0.01)
