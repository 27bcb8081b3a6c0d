"""Postfix relays mail through the gateway: what it handed over is kept as it was, and it knows so."""

import re
import subprocess
from pathlib import Path

import pytest
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine.models import Message
from quarantine.queries import read_raw
from tests.postfix.instance import SBIN, Postfix, run_postfix
from tests.quarantine.gateways import Client, run_gateway
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")

CERTIFICATE = Path(__file__).parent.parent / "smtp_sink.pem"
HEAD = b"From: Ann <ann@sender.test>\r\nTo: Bob <bob@alpha.test>\r\nMessage-ID: <%b@sender.test>\r\nDate: today\r\n"
FOLD_AT = 998  # Postfix's smtp_line_length_limit
LETTERS = {
    "plain": b"Subject: noon\r\n\r\nShall we?\r\n",
    "empty": b"Subject: nothing\r\n\r\n",
    "8-bit": "Subject: naïve\r\n\r\nGrüße, 你好\r\n".encode() + bytes(range(128, 256)) + b"\r\n",
    "dots": b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n...\r\n. \r\nx\r\n.\r\n",
    "smuggler": b"Subject: two\r\n\r\nx\r\n.\r\nMAIL FROM:<ceo@alpha.test>\r\nRCPT TO:<bob@alpha.test>\r\nDATA\r\n",
    "64 KiB line": b"Subject: long\r\n\r\n" + b"l" * 65536 + b"\r\n",
    "longer lines": b"Subject: longer\r\n\r\n" + (b"m" * 200_000 + b"\r\n") * 3,
    "odd octets": b"Subject: odd\r\n\r\n\x01\x02\x1b\x7f\t \r\n \r\n\r\n\r\n",
    "big": b"Subject: big\r\n\r\n" + (b"0123456789abcdef" * 4 + b"\r\n") * 130_000,
}


@pytest.fixture
def gateway(settings):
    settings.SMTP_TLS_CERTIFICATE = settings.SMTP_TLS_KEY = str(CERTIFICATE)
    with run_gateway() as running:
        yield running


def relay_to(port: int, **settings: str) -> dict[str, str]:
    return {
        "relay_domains": "alpha.test, beta.test, gamma.test",
        "relay_transport": f"smtp:[127.0.0.1]:{port}",
        "smtpd_relay_restrictions": "permit_auth_destination, reject",
        "message_size_limit": "50000000",
        "smtp_line_length_limit": "0",
        "smtp_destination_recipient_limit": "1000",
        "default_transport": "discard:",
    } | settings


def make_letter(name: str) -> bytes:
    return HEAD % name.replace(" ", ".").encode() + LETTERS[name]


def hand_over(
    postfix: Postfix, raw: bytes, *recipients: str, sender: str = "ann@sender.test", option: str = ""
) -> None:
    """Give Postfix a message, octet for octet."""
    client = Client(postfix.port)
    client.read_reply()
    client.ask("EHLO client.test")
    assert client.ask(f"MAIL FROM:<{sender}>{option}").startswith("250 ")
    for recipient in recipients or ("bob@alpha.test",):
        assert client.ask(f"RCPT TO:<{recipient}>").startswith("250 ")
    assert client.ask("DATA").startswith("354 ")
    assert client.send_data(raw).startswith("250 ")
    client.ask("QUIT")
    client.close()


def list_messages(schema: str = "sp_acme") -> list[Message]:
    with schema_context(schema):
        return list(Message.objects.order_by("id"))


def read_kept(message: Message) -> bytes:
    with schema_context("sp_acme"):
        return read_raw(message)


def drop_received(raw: bytes) -> bytes:
    """The message without the one header field that Postfix put on top."""
    field = re.match(rb"Received: [^\r]*\r\n(?:[ \t][^\r]*\r\n)*", raw)
    assert field, raw[:200]
    assert b" (Postfix) with " in field.group()
    return raw[field.end() :]


def test_everything_that_postfix_relays_is_kept_octet_for_octet(gateway):
    with run_postfix(**relay_to(gateway.port)) as postfix:
        for name in LETTERS:
            hand_over(postfix, make_letter(name), option=" BODY=8BITMIME")
        postfix.wait_empty()
        sent = postfix.find_lines(r"status=sent \(250 ")
    kept = {message.subject: message for message in list_messages()}
    assert len(kept) == len(sent) == len(LETTERS)
    for name in LETTERS:
        raw = make_letter(name)
        [message] = [one for one in kept.values() if one.message_id == f"<{name.replace(' ', '.')}@sender.test>"]
        assert drop_received(read_kept(message)) == raw, name
        assert any(message.trace_id in line for line in sent), name  # an operator finds our trace in Postfix's log


def test_lines_that_postfix_folds_are_kept_as_folded(gateway):
    raw = make_letter("longer lines")
    with run_postfix(**relay_to(gateway.port, smtp_line_length_limit=str(FOLD_AT))) as postfix:
        hand_over(postfix, raw)
        postfix.wait_empty()
    [message] = list_messages()
    head, _, body = drop_received(read_kept(message)).partition(b"\r\n\r\n")
    assert head + b"\r\n\r\n" == raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert body.replace(b"\r\n ", b"") == raw.partition(b"\r\n\r\n")[2]
    assert max(map(len, body.split(b"\r\n"))) <= FOLD_AT + 1


def test_the_null_sender_and_addresses_beyond_ascii_come_through(gateway):
    with run_postfix(**relay_to(gateway.port)) as postfix:
        hand_over(postfix, make_letter("plain"), sender="")
        hand_over(postfix, make_letter("8-bit"), sender="søren@sender.test", option=" SMTPUTF8 BODY=8BITMIME")
        postfix.wait_empty()
    assert {message.sender for message in list_messages()} == {"", "søren@sender.test"}  # A01, A25


def test_a_hundred_recipients_are_one_message(gateway):
    with schema_context("sp_acme"):
        domain = MailDomain.objects.get(name="alpha.test").pk
        people = [f"p{number}@alpha.test" for number in range(100)]
        Mailbox.objects.bulk_create(Mailbox(address=address, domain_id=domain) for address in people)
    with run_postfix(**relay_to(gateway.port)) as postfix:
        hand_over(postfix, make_letter("plain"), *people)
        postfix.wait_empty()
        assert len(postfix.find_lines(r"status=sent \(250 ")) == 100
    [message] = list_messages()
    with schema_context("sp_acme"):
        assert set(message.recipients.values_list("address", flat=True)) == set(people)  # L06


def test_one_unknown_recipient_of_two_is_bounced_by_postfix_and_the_other_is_kept(gateway):
    with run_postfix(**relay_to(gateway.port)) as postfix:
        hand_over(postfix, make_letter("plain"), "bob@alpha.test", "nobody@alpha.test")
        wait_until(lambda: len(postfix.find_lines("status=(sent|bounced)")) >= 2)
        [bounced] = postfix.find_lines("to=<nobody@alpha.test>.*status=bounced")
        assert "said: 550 5.1.1" in bounced
        assert "(in reply to RCPT TO command)" in bounced
    with schema_context("sp_acme"):
        [message] = list_messages()
        assert dict(message.recipients.values_list("address", "state")) == {
            "bob@alpha.test": "delivering",
            "nobody@alpha.test": "refused",
        }


def test_postfix_encrypts_what_it_relays(gateway):
    with run_postfix(**relay_to(gateway.port, smtp_tls_security_level="encrypt", smtp_tls_loglevel="1")) as postfix:
        for _ in range(3):
            hand_over(postfix, make_letter("dots"))
        postfix.wait_empty()
        assert postfix.find_lines("TLS connection established to 127.0.0.1")
    messages = list_messages()
    assert len(messages) == 3
    for message in messages:
        assert message.tls.startswith("TLSv1.")
        assert drop_received(read_kept(message)) == make_letter("dots")


def test_smtp_source_with_many_sessions(gateway):
    """Postfix's own load generator: 20 sessions at once, every message answered 250 is there."""
    words = ["-s", "20", "-m", "300", "-l", "5000", "-f", "ann@sender.test", "-t", "bob@alpha.test"]
    subprocess.run(["smtp-source", *words, f"127.0.0.1:{gateway.port}"], env={"PATH": SBIN}, check=True, timeout=120)
    assert len(list_messages()) == 300
