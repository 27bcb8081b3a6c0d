"""The rows of docs/specifications.md that no other test is about, and that none of them is without a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django_tenants.utils import schema_context

from portal.settings.environment import PROJECT
from quarantine.models import Message
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN, HEADER, list_rows, read_back
from tests.quarantine.test_gateway_session import (
    GO_AHEAD,
    HELLO,
    MAIL,
    MAIL_FIRST,
    NO_ARGUMENT,
    OK,
    RCPT,
    RECIPIENT_OK,
    SENDER_OK,
)

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway() as running:
        yield running


def expand(first: str, last: str) -> set[str]:
    return {f"{first[0]}{number:02}" for number in range(int(first[1:]), int(last[1:]) + 1)}


def test_every_row_of_the_docs_is_named_by_a_test():
    wanted = set().union(
        *(expand("S01", "S26"), expand("A01", "A28"), expand("L01", "L13"), expand("D01", "D03"), expand("D10", "D42")),
        *(expand("T01", "T04"), expand("W01", "W02")),
    )
    text = (PROJECT / "docs/specifications.md").read_text()
    listed = re.findall(r"^\| ([SALDTW]\d\d) \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(wanted)
    named: set[str] = set()
    for path in Path(PROJECT, "tests").rglob("test_*.py"):
        for first, last in re.findall(r"\b([SALDTW]\d\d)(?:-([SALDTW]\d\d))?\b", path.read_text()):
            named |= expand(first, last or first)
    assert wanted - named == set()


# The session


def test_the_greeting_names_the_host_and_nothing_more(gateway):  # S01, D42
    assert gateway.connect(greeting=False).read_reply() == "220 lazaret.localhost ESMTP"
    assert gateway.connect().ask("HELP") == "502 5.5.1 Command not implemented"


def test_a_greeting_in_the_midst_is_a_reset(gateway):  # S11
    client = gateway.open()
    assert client.talk(MAIL, RCPT) == [SENDER_OK, RECIPIENT_OK]
    client.ask("EHLO again.test")
    assert client.talk("DATA", RCPT) == [MAIL_FIRST, MAIL_FIRST]


def test_quit_is_answered_and_then_it_is_over(gateway):  # S17, S18
    client = gateway.connect()
    assert client.talk("QUIT now", "quit") == [NO_ARGUMENT, "221 2.0.0 Bye"]
    assert client.is_closed()


def test_the_case_of_a_verb_means_nothing(gateway):  # S20
    client = gateway.connect()
    assert client.talk("hElO x", "mAiL fRoM:<a@b.test>", "rCpT tO:<bob@alpha.test>", "nOoP") == [
        *(HELLO, SENDER_OK, RECIPIENT_OK, OK)
    ]


@pytest.mark.parametrize("name", ["no-such-host.invalid", "localhost", "x", "-", "[300.1.1.1]", "a b c"])
def test_nobody_is_refused_for_the_name_it_says(gateway, name):  # S23
    client = gateway.connect()
    assert client.talk(f"HELO {name}", MAIL, RCPT) == [HELLO, SENDER_OK, RECIPIENT_OK]


def test_data_with_an_argument_begins_nothing(gateway):  # S24
    client = gateway.open()
    assert client.talk(MAIL, RCPT, "DATA x", "NOOP") == [SENDER_OK, RECIPIENT_OK, NO_ARGUMENT, OK]


def test_long_local_parts(gateway):  # A13, A14
    client = gateway.open()
    long = "x" * 65
    assert client.ask(f"MAIL FROM:<{long}@sender.test>") == SENDER_OK
    assert client.ask(f"RCPT TO:<{long}@alpha.test>") == "550 5.1.1 No such mailbox here"
    assert client.ask(f"RCPT TO:<{'x' * 400}@alpha.test>") == "553 5.1.3 Recipient address has wrong syntax"
    assert client.ask("NOOP") == OK


def test_size_is_announced_with_its_number(gateway):  # L01
    assert "250-SIZE 52428800" in gateway.connect().ask("EHLO x").splitlines()


def test_auth_is_not_offered(gateway):  # T04
    client = gateway.connect()
    assert "AUTH" not in client.ask("EHLO x")
    assert client.ask("AUTH PLAIN AGEAYg==") == "502 5.5.1 Command not implemented"


# Messages


def test_an_empty_message_is_one(gateway):  # D03
    client = gateway.open()
    assert read_back(client.mail(data=b"")) == b""


def test_messages_follow_one_another_and_leave_nothing_behind(gateway):  # D29, D30
    client = gateway.open()
    assert client.mail("first@sender.test", data=CLEAN).startswith("250 ")
    assert client.talk(RCPT, "DATA") == [MAIL_FIRST, MAIL_FIRST]
    assert client.mail("second@sender.test", "carol@alpha.test", data=CLEAN).startswith("250 ")
    assert list_rows() == [("bob@alpha.test", "delivering"), ("carol@alpha.test", "delivering")]
    with schema_context("sp_acme"):
        senders = list(Message.objects.order_by("id").values_list("sender", flat=True))
    assert senders == ["first@sender.test", "second@sender.test"]


def test_eight_bits_are_kept(gateway):  # D31
    client = gateway.open()
    body = HEADER + b"\r\n\xc3\xa9\xff\x80\r\n"
    assert client.talk(f"{MAIL} BODY=8BITMIME", RCPT, "DATA") == [SENDER_OK, RECIPIENT_OK, GO_AHEAD]
    assert read_back(client.send_data(body)) == body


def test_thirty_hops_are_no_loop_and_a_hundred_and_one_are(gateway):  # D27, D28
    client, line = gateway.open(), b"Received: from a by b\r\n"
    assert client.mail(data=line * 30 + CLEAN).startswith("250 ")
    assert client.mail(data=line * 101 + CLEAN).startswith("554 5.4.6 ")


def nest(depth: int) -> bytes:
    head = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(depth)
    )
    return b"From: a@b.test\r\nMIME-Version: 1.0\r\n" + head + b"\r\nx\r\n"


MIXED = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
ODD = {
    "latin-1-header": b"From: J\xf6rg <j@sender.test>\r\nSubject: \xfcber\r\n\r\nx\r\n",  # D23
    "no-utf-8": b"Subject: =?utf-8?b?/////w==?= \xc3\x28\r\n\r\nx\r\n",  # D23
    "unknown-charset": b"Subject: =?no-such?q?x?=\r\nContent-Type: text/plain; charset=no-such\r\n\r\nx\r\n",  # D24
    "broken-base64": b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n=*%x===\r\n",  # D24
    "cut-multipart": MIXED + b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nno end",  # D24
    "nul": b"Subject: a\0b\r\n\r\nx\0y\r\n",  # D21, D22
    "depth-2000": nest(2000),  # D25
    "parts-100000": MIXED + b"\r\n" + b"--b\r\n\r\n\r\n" * 100_000 + b"--b--\r\n",  # D25
    "headers-20000": b"X-Header: x\r\n" * 20_000 + b"\r\nx\r\n",  # D26
    "header-5-MB": b"Subject: x" + b"\r\n x" * 1_300_000 + b"\r\n\r\nx\r\n",  # D26
    "commas": b"From: " + b"a@b.test," * 20_000 + b"\r\n\r\nx\r\n",
    "comments": b"From: " + b"(" * 5_000 + b"\r\n\r\nx\r\n",
}


def test_odd_messages_are_taken_as_they_are_while_others_are_answered(gateway):
    other = gateway.open()
    kept = {}
    for name, octets in ODD.items():
        client = gateway.open()
        assert client.talk(MAIL, RCPT, "DATA") == [SENDER_OK, RECIPIENT_OK, GO_AHEAD]
        client.send((b"\r\n" + octets).replace(b"\r\n.", b"\r\n..")[2:].removesuffix(b"\r\n") + b"\r\n.\r\n")
        assert other.ask("RSET") == OK
        kept[name] = read_back(client.read_reply())
    assert kept == {name: octets.removesuffix(b"\r\n") + b"\r\n" for name, octets in ODD.items()}
