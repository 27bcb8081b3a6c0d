"""The conversation itself: transcripts compared whole. Ids in brackets are those of docs/specifications.md."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.test import override_settings
from django_tenants.utils import schema_context

from portal.tenants.directory import DirectoryUnavailable
from quarantine.models import Message, Recipient
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN, list_rows
from tests.running_courier import wait_until
from tests.smtp_sink import CERTIFICATE

pytestmark = pytest.mark.usefixtures("committed")

OK = "250 2.0.0 Ok"
SENDER_OK = "250 2.1.0 Sender ok"
RECIPIENT_OK = "250 2.1.5 Recipient ok"
GO_AHEAD = "354 End data with <CR><LF>.<CR><LF>"
HELLO = "250 lazaret.localhost"
NO_ARGUMENT = "501 5.5.4 Command takes no argument"
HELO_FIRST = "503 5.5.1 Send HELO or EHLO first"
MAIL_FIRST = "503 5.5.1 Send MAIL first"
UNKNOWN_COMMAND = "500 5.5.2 Command not recognized"
NOT_READY = "421 4.3.0 Service not ready, try again later"
TEMPORARY = "451 4.3.0 Temporary failure, please try again later"
MAIL, RCPT = "MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    certificate = {"SMTP_TLS_CERTIFICATE": str(CERTIFICATE), "SMTP_TLS_KEY": str(CERTIFICATE)}
    with django_db_blocker.unblock(), override_settings(**certificate), run_gateway() as running:
        yield running


def test_a_whole_session(gateway):
    client = gateway.connect(greeting=False)
    assert client.read_reply() == "220 lazaret.localhost ESMTP"
    assert client.ask("EHLO client.test").splitlines() == [
        "250-lazaret.localhost",
        "250-PIPELINING",
        "250-SIZE 52428800",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-CHUNKING",
        "250-STARTTLS",
        "250-XCLIENT ADDR HELO",
        "250 ENHANCEDSTATUSCODES",
    ]
    assert client.talk(f"{MAIL} SIZE=100 BODY=8BITMIME", RCPT, "DATA") == [SENDER_OK, RECIPIENT_OK, GO_AHEAD]
    assert client.send_data(CLEAN).startswith("250 2.0.0 Ok: kept as ")
    assert client.talk(RCPT, "QUIT") == [MAIL_FIRST, "221 2.0.0 Bye"]
    assert client.is_closed()


@pytest.mark.parametrize(
    ("commands", "replies"),
    [
        (["EHLO"], ["501 5.5.4 Syntax: HELO or EHLO and the name of your host"]),  # S02
        (["HELO x"], [HELLO]),  # S03
        ([MAIL, RCPT, "DATA"], [HELO_FIRST] * 3),  # S04
        (["HELO x", RCPT, "DATA"], [HELLO, MAIL_FIRST, MAIL_FIRST]),  # S05, S06
        (["HELO x", MAIL, "DATA"], [HELLO, SENDER_OK, "503 5.5.1 Send RCPT first"]),  # S07
        (["HELO x", MAIL, MAIL], [HELLO, SENDER_OK, "503 5.5.1 A sender was given already"]),  # S08
        (["HELO x", MAIL, "RSET", RCPT], [HELLO, SENDER_OK, OK, MAIL_FIRST]),  # S09, S10
        (["HELO x", MAIL, "HELO x", RCPT], [HELLO, SENDER_OK, HELLO, MAIL_FIRST]),
        (["HELO x", MAIL, "NOOP hi", RCPT], [HELLO, SENDER_OK, OK, RECIPIENT_OK]),  # S12, S14
        (["NOOP", "RSET"], [OK, OK]),  # S13
        (["VRFY bob@alpha.test"], ["252 2.5.0 Cannot verify, but will take the message and try"]),  # S15
        (["EXPN list", "HELP", "AUTH PLAIN"], ["502 5.5.1 Command not implemented"] * 3),  # S16, D42, T04
        (["BOGUS", "", "\0", "M\xe4il"], [UNKNOWN_COMMAND] * 4),  # S19, S26
        (["helo x", "mail from:<a@b.test>", "rcpt to:<bob@alpha.test>"], [HELLO, SENDER_OK, RECIPIENT_OK]),
        (["EHLO [192.0.2.1]"], None),  # S21
        (["EHLO [IPv6:::1]"], None),  # S22
        (["HELO x", MAIL, RCPT, "DATA now"], [HELLO, SENDER_OK, RECIPIENT_OK, NO_ARGUMENT]),
        (["RSET x"], [NO_ARGUMENT]),  # S25
        (["STARTTLS x"], [NO_ARGUMENT]),  # T01
    ],
)  # fmt: skip
def test_commands_and_their_order(gateway, commands, replies):
    answers = gateway.connect().talk(*commands)
    if replies is None:
        assert answers[-1].endswith("250 ENHANCEDSTATUSCODES")
    else:
        assert answers == replies


SENDER_SYNTAX = "501 5.5.4 Syntax: MAIL FROM:<address> and parameters"
BAD_SENDER = "553 5.1.7 Sender address has wrong syntax"
UNKNOWN_PARAMETER = "555 5.5.4 Parameter not recognized or not implemented"
TOO_BIG = "552 5.3.4 Message is larger than this server accepts"


@pytest.mark.parametrize(
    ("argument", "reply", "sender"),
    [
        ("<>", SENDER_OK, ""),  # A01
        ("<@a.test,@b.test:ann@c.test>", SENDER_OK, "ann@c.test"),  # A05
        ('<"a b"@c.test>', SENDER_OK, '"a b"@c.test'),  # A06
        ('<"a..b"@c.test>', SENDER_OK, '"a..b"@c.test'),
        ('<"a\\.b"@c.test>', SENDER_OK, "a.b@c.test"),
        ("<" + "x" * 64 + "@c.test>", SENDER_OK, "x" * 64 + "@c.test"),  # A12
        (" <Ann@C.test>", SENDER_OK, "Ann@C.test"),
        ("<ann@[192.0.2.1]>", SENDER_OK, "ann@[192.0.2.1]"),
        ("<" + "x" * 400 + "@c.test>", BAD_SENDER, None),  # A14
        ("ann@c.test", SENDER_SYNTAX, None),  # A15
        ("<ann@c.test", SENDER_SYNTAX, None),
        ("<a@b@c.test>", BAD_SENDER, None),  # A16
        ("<ann>", BAD_SENDER, None),
        ("<ann@c.test> FOO=BAR", UNKNOWN_PARAMETER, None),  # A20
        ("<ann@c.test>x", SENDER_SYNTAX, None),
        (b"<an\0n@c.test>", BAD_SENDER, None),  # A22
        (b"<an\xefn@c.test>", BAD_SENDER, None),  # A23
        (b"<an\xed\xa0\x80n@c.test> SMTPUTF8", BAD_SENDER, None),
        ("<änn@c.test>", "553 5.6.7 Must declare SMTPUTF8 to send an internationalized address", None),  # A24
        ("<änn@bücher.test> SMTPUTF8", SENDER_OK, "änn@xn--bcher-kva.test"),  # A25
        ("<ann@c.test> SMTPUTF8=1", "501 5.5.4 SMTPUTF8 takes no value", None),  # A26
        ("<ann@c.test> SIZE=52428800", SENDER_OK, "ann@c.test"),
        ("<ann@c.test> SIZE=52428801", TOO_BIG, None),  # L02
        ("<ann@c.test> SIZE=1 size=2", SENDER_SYNTAX, None),
        ("<ann@c.test> SMTPUTF8 SIZE=²", SENDER_SYNTAX, None),
        ("<ann@c.test> SIZE=abc", "501 5.5.4 SIZE is a number of octets", None),  # L03
        ("<ann@c.test> SIZE=" + "9" * 20, TOO_BIG, None),  # L04
        ("<ann@c.test> SIZE=" + "9" * 3000, TOO_BIG, None),
        ("<ann@c.test> BODY=GARBAGE", "501 5.5.4 BODY is 7BIT or 8BITMIME", None),  # D32
    ],
)
def test_senders(gateway, argument, reply, sender):
    client = gateway.open()
    argument = argument.encode() if isinstance(argument, str) else argument
    assert client.ask(b"MAIL FROM:" + argument) == reply
    if sender is not None:
        client.talk(RCPT, "DATA")
        client.send_data(CLEAN)
        with schema_context("sp_acme"):
            assert Message.objects.get().sender == sender


RELAY_DENIED = "550 5.7.1 Relaying denied: we take no mail for this domain"
BAD_RECIPIENT = "553 5.1.3 Recipient address has wrong syntax"
UNKNOWN_MAILBOX = "550 5.1.1 No such mailbox here"


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        ("<postmaster>", RECIPIENT_OK),  # A02
        ("<PostMaster>", RECIPIENT_OK),  # A03
        ("<postmaster@beta.test>", RECIPIENT_OK),  # A04
        ("<@foreign.test:bob@alpha.test>", RECIPIENT_OK),
        ('<"bob"@alpha.test>', RECIPIENT_OK),  # A06
        ('<"bob+tag"@alpha.test>', RECIPIENT_OK),
        ("<postmaster+tag@alpha.test>", UNKNOWN_MAILBOX),
        ('<"you@evil.test"@alpha.test>', UNKNOWN_MAILBOX),  # A07
        ("<you@evil.test>", RELAY_DENIED),  # A08
        ("<you%evil.test@alpha.test>", UNKNOWN_MAILBOX),  # A09
        ("<evil.test!you@alpha.test>", UNKNOWN_MAILBOX),  # A10
        ("<@alpha.test:you@evil.test>", RELAY_DENIED),  # A11
        ("<>", "501 5.5.4 Syntax: RCPT TO:<address>"),  # A17
        ("<-oQx@alpha.test>", UNKNOWN_MAILBOX),  # A18
        ("<bob@[192.0.2.1]>", RELAY_DENIED),  # A19
        ("<bob@alpha.test> NOTIFY=NEVER", UNKNOWN_PARAMETER),  # A21
        ("<bob@alpha.test.>", RECIPIENT_OK),
        ("<bob@ALPHA.TEST>", RECIPIENT_OK),
        ("<bob@alpha.test.evil.test>", RELAY_DENIED),
        (b"<b\0b@alpha.test>", BAD_RECIPIENT),
        (b"<b\xefb@alpha.test>", BAD_RECIPIENT),
        ("<bob>@alpha.test>", "501 5.5.4 Syntax: RCPT TO:<address>"),  # O07
        ("<bob\t@alpha.test>", BAD_RECIPIENT),
        ("bob@alpha.test", "501 5.5.4 Syntax: RCPT TO:<address>"),
        ("<böb@alpha.test>", "553 5.6.7 Must declare SMTPUTF8 to send an internationalized address"),
    ],
)
def test_recipients(gateway, argument, reply):
    client = gateway.open()
    argument = argument.encode() if isinstance(argument, str) else argument
    assert client.talk(MAIL, b"RCPT TO:" + argument) == [SENDER_OK, reply]


def test_pipelined_commands_are_answered_in_order(gateway):  # D34
    client = gateway.open()
    client.send(b"\r\n".join([MAIL.encode(), RCPT.encode(), b"RCPT TO:<no@alpha.test>", b"DATA", b""]))
    assert [client.read_reply() for _ in range(4)] == [SENDER_OK, RECIPIENT_OK, UNKNOWN_MAILBOX, GO_AHEAD]
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\nNOOP\r\nQUIT\r\n")
    replies = [client.read_reply() for _ in range(3)]
    assert replies[0].startswith("250 2.0.0 Ok: kept as ")
    assert replies[1:] == [OK, "221 2.0.0 Bye"]
    assert client.is_closed()


def test_a_client_that_stops_sending_still_gets_its_replies(gateway):
    client = gateway.connect()
    client.send(b"HELO x\r\nNOOP\r\n")
    client.socket.shutdown(1)
    assert [client.read_reply(), client.read_reply()] == [HELLO, OK]
    assert client.is_closed()


@pytest.mark.parametrize(
    "end",
    [
        *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r"),
        *(b"\r.\r\n", b"\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\r\n.\r\r\n"),
    ],
)
def test_only_one_thing_ends_a_message(gateway, end):  # D10-D19
    client = gateway.open()
    client.talk(MAIL, RCPT, "DATA")
    smuggled = b"MAIL FROM:<evil@sender.test>\r\nRCPT TO:<carol@alpha.test>\r\nDATA\r\nSubject: evil\r\n\r\nx"
    client.send(b"Subject: x\r\n\r\nfirst" + end + smuggled + b"\r\n.\r\n")
    assert client.read_reply().startswith("250 2.0.0 Ok: kept as ")
    assert client.ask("NOOP") == OK
    assert list_rows() == [("bob@alpha.test", "delivering")]


def test_tls_begins_a_new_session(gateway):  # T02, T03
    client = gateway.open()
    client.talk(MAIL, RCPT)
    client.send(b"STARTTLS\r\nNOOP injected\r\nRSET\r\n")
    assert client.read_reply() == "220 2.0.0 Ready to start TLS"
    version = client.start_tls()
    assert client.talk(RCPT, MAIL) == [HELO_FIRST, HELO_FIRST]
    assert "STARTTLS" not in client.ask("EHLO client.test")
    assert client.ask("STARTTLS") == "503 5.5.1 TLS is active already"
    assert client.mail(data=CLEAN + b"x" * 300_000 + b"\r\n").startswith("250 ")
    with schema_context("sp_acme"):
        assert Message.objects.get(size__gt=0).tls.startswith(f"{version} TLS_")


def test_a_failed_handshake_ends_the_connection_alone(gateway):
    client = gateway.open()
    client.ask("STARTTLS")
    client.send(b"this is no handshake at all\r\n" * 10)
    while client.socket.recv(1024):
        pass
    assert gateway.open().ask("NOOP") == OK


def test_xclient_is_for_trusted_peers(gateway):  # D39
    client = gateway.open()
    trusted, gateway.services.trusted_networks = gateway.services.trusted_networks, ("192.0.2.0/24",)
    try:
        replies = client.talk("XCLIENT ADDR=192.0.2.1", "EHLO x", "XFORWARD ADDR=192.0.2.1")
    finally:
        gateway.services.trusted_networks = trusted
    assert replies[0] == "550 5.7.0 Not authorized to use this command"
    assert "XCLIENT" not in replies[1]
    assert replies[2] == UNKNOWN_COMMAND


def test_xclient_begins_a_new_session(gateway):
    client = gateway.open()
    replies = client.talk("XCLIENT ADDR=IPV6:2001:db8::1 HELO=mx.sender.test", MAIL, "XCLIENT ADDR=nonsense", "XCLIENT")
    syntax = "501 5.5.4 Syntax: XCLIENT ADDR=address HELO=name"
    assert replies == ["220 lazaret.localhost ESMTP", HELO_FIRST, syntax, syntax]
    client.ask("EHLO relay.test")
    assert client.talk("MAIL FROM:<a@b.test>", "XCLIENT ADDR=192.0.2.9")[1] == "503 5.5.1 Not during a mail transaction"


def test_http_is_sent_away(gateway):  # D37
    client = gateway.connect()
    assert client.ask("GET / HTTP/1.1") == "421 4.7.0 This is an SMTP server, closing the connection"
    assert client.is_closed()


def test_tls_without_asking_is_sent_away(gateway):
    client = gateway.connect()
    client.send(b"\x16\x03\x01\x00\x07\x01\x00\x00\x03\x03\x03\n")
    assert client.read_reply() == "421 4.7.0 This is an SMTP server, closing the connection"
    assert client.is_closed()


def test_a_fault_of_ours_is_temporary_and_tells_nothing(gateway, monkeypatch, caplog):  # D41
    async def fail(*_, **__):
        raise RuntimeError("connection to server at db01.internal failed: password of lazaret")

    client = gateway.open()
    with monkeypatch.context() as patch:
        patch.setattr(gateway.services.intake, "receive", fail)
        assert client.mail(data=CLEAN) == TEMPORARY
        patch.setattr(gateway.services.recipients, "find", fail)
        assert client.talk(MAIL, RCPT) == [SENDER_OK, TEMPORARY]
    assert client.talk(RCPT, "RSET") == [RECIPIENT_OK, OK]
    assert client.mail(data=CLEAN).startswith("250 ")
    assert "db01" not in caplog.text
    assert list_rows() == [("bob@alpha.test", "delivering")]


@pytest.mark.parametrize("fault", [TimeoutError, EOFError, ConnectionResetError])
def test_a_wait_of_ours_that_fails_is_not_held_against_the_client(gateway, monkeypatch, fault):  # D41
    async def fail(*_, **__):
        raise fault

    client = gateway.open()
    with monkeypatch.context() as patch:
        patch.setattr(gateway.services.recipients, "find", fail)
        assert client.talk(MAIL, RCPT) == [SENDER_OK, TEMPORARY]
    assert client.talk("RSET") == [OK]
    assert client.mail(data=CLEAN).startswith("250 ")


@pytest.mark.parametrize(
    ("opening", "reading"), [("DATA", "unstuff"), ("DATA", "Progress.add"), (f"BDAT {len(CLEAN)} LAST", "Progress.add")]
)
def test_what_follows_a_fault_amid_content_is_not_read_as_commands(gateway, monkeypatch, opening, reading):  # D41
    def fail(*_, **__):
        raise RuntimeError

    client = gateway.open()
    assert client.talk(MAIL, RCPT) == [SENDER_OK, RECIPIENT_OK]
    smuggled = f"{MAIL}\r\n{RCPT}\r\nDATA\r\nSubject: smuggled\r\n\r\n.\r\n".encode()
    with monkeypatch.context() as patch:
        patch.setattr(f"quarantine.gateway.inlet.{reading}", fail)
        client.send(opening.encode() + b"\r\n" + CLEAN + smuggled)
        replies = iter(client.read_reply, "")
        assert [reply for reply in replies if not reply.startswith("354")] == [NOT_READY]
    gateway.settle()
    with schema_context("sp_acme"):
        assert list(Recipient.objects.values_list("address", "state", "cause")) == [
            ("bob@alpha.test", "unfinished", "fault")
        ]


def test_a_directory_that_cannot_answer_is_temporary(gateway, monkeypatch):
    async def fail(*_, **__):
        raise DirectoryUnavailable

    client = gateway.open()
    monkeypatch.setattr(gateway.services.recipients, "find", fail)
    # A client that pipelines has sent DATA already: a 5xx there would bounce what we only put off.
    assert client.talk(MAIL, RCPT, "DATA") == [SENDER_OK, TEMPORARY, TEMPORARY]
    monkeypatch.undo()
    assert client.talk("RSET", MAIL, "DATA")[2] == "503 5.5.1 Send RCPT first"


def test_unjudged_mail_is_never_taken(gateway, monkeypatch):
    def fail(*_):
        raise ValueError

    monkeypatch.setattr("quarantine.intake.judge", fail)
    assert gateway.open().mail(data=CLEAN) == TEMPORARY
    assert list_rows() == []


def test_others_are_answered_while_a_message_is_being_read(gateway):
    """Every thread that reads mail is busy; the sessions go on."""
    release = threading.Event()
    work = [gateway.gateway.examiners.run(f"192.0.2.{n}", release.wait, 20) for n in range(8)]
    busy = [asyncio.run_coroutine_threadsafe(one, gateway.loop) for one in work]
    first, second = gateway.open(), gateway.open()
    first.talk(MAIL, RCPT, "DATA")
    first.send(CLEAN + b".\r\n")
    assert second.talk(MAIL, RCPT, "RSET") == [SENDER_OK, RECIPIENT_OK, OK]
    assert list_rows() == []
    release.set()
    assert first.read_reply().startswith("250 ")
    assert all(one.result() for one in busy)


# Ends


def test_a_stop_lets_what_is_under_way_end():
    with run_gateway() as gateway:
        idle, busy = gateway.open(), gateway.open()
        busy.talk(MAIL, RCPT, "DATA")
        stopping = asyncio.run_coroutine_threadsafe(gateway.gateway.stop(10), gateway.loop)
        assert idle.read_reply() == "421 4.3.2 Service is being restarted, try again"
        assert idle.is_closed()
        with pytest.raises(ConnectionRefusedError):
            gateway.connect()
        assert busy.send_data(CLEAN).startswith("250 ")
        assert busy.read_reply() == "421 4.3.2 Service is being restarted, try again"
        assert busy.is_closed()
        stopping.result(10)
    assert list_rows() == [("bob@alpha.test", "delivering")]


def test_while_one_stops_another_on_its_port_takes_who_comes():
    with run_gateway() as gateway, run_gateway(port=gateway.port) as sibling:
        clients = []
        while not gateway.services.sessions:  # the kernel chooses
            clients.append(gateway.open())
        busy = clients[-1]
        busy.talk(MAIL, RCPT, "DATA")
        stopping = asyncio.run_coroutine_threadsafe(gateway.gateway.stop(10), gateway.loop)
        wait_until(lambda: not gateway.gateway._server.is_serving())
        clients += [gateway.open() for _ in range(10)]
        assert len(sibling.services.sessions) == len(clients) - 1
        assert busy.send_data(CLEAN).startswith("250 ")
        stopping.result(10)
