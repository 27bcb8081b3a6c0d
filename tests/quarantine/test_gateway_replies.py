"""Every reply of quarantine/gateway/replies.py, as it was seen on the wire."""

from __future__ import annotations

import inspect
import re

import pytest
from django.test import override_settings

from portal.tenants.models import MailDomain
from quarantine.gateway import replies
from quarantine.gateway.limits import Limits
from quarantine.gateway.replies import Reply
from tests.quarantine.gateways import run_gateway, run_name_server, trickle
from tests.quarantine.test_gateway_mail import CLEAN, SPAM, WITHOUT_PTR
from tests.quarantine.test_gateway_meeting import BALANCER, standing_still
from tests.quarantine.test_gateway_session import MAIL, RCPT
from tests.smtp_sink import CERTIFICATE

pytestmark = pytest.mark.usefixtures("committed")

LIMITS = Limits(
    message_octets=4000,
    proxy_seconds=0.2,
    recipients=1,
    messages=1,
    errors=3,
    idle_commands=3,
    client_connections=3,
)
LARGE = "x" * 70 + "\r\n"
CONTENT = CLEAN.decode() + "."

# What a client says in one session, to hear the reply of that name among the others.
SAID = {
    "greet": [],
    "BYE": ["QUIT"],
    "OK": ["NOOP"],
    "SENDER_OK": ["EHLO x", MAIL],
    "RECIPIENT_OK": ["EHLO x", MAIL, RCPT],
    "CHUNK_OK": ["EHLO x", MAIL, RCPT, "BDAT 0"],
    "CANNOT_VERIFY": ["VRFY bob@alpha.test"],
    "READY_FOR_TLS": ["STARTTLS"],
    "GO_AHEAD": ["EHLO x", MAIL, RCPT, "DATA"],
    "accept": ["EHLO x", MAIL, RCPT, "DATA", CONTENT],
    "answer_helo": ["HELO x"],
    "answer_ehlo": ["EHLO x"],
    "TOO_MANY_ERRORS": ["BOGUS"] * 3,
    "TOO_MANY_COMMANDS": ["NOOP"] * 3,
    "NOT_SMTP": ["GET / HTTP/1.1"],
    "OUT_OF_STEP": ["BDAT x"],
    "TOO_MANY_MESSAGES": ["EHLO x", MAIL, RCPT, "DATA", CONTENT, MAIL],
    "TOO_MANY_RECIPIENTS": ["EHLO x", MAIL, RCPT, "RCPT TO:<carol@alpha.test>"],
    "LINE_TOO_LONG": ["NOOP " + "x" * 5000],
    "UNKNOWN_COMMAND": ["BOGUS"],
    "NOT_IMPLEMENTED": ["AUTH PLAIN"],
    "NO_ARGUMENT_WANTED": ["RSET x"],
    "HELO_SYNTAX": ["EHLO"],
    "MAIL_SYNTAX": ["EHLO x", "MAIL ann@sender.test"],
    "RCPT_SYNTAX": ["EHLO x", MAIL, "RCPT bob@alpha.test"],
    "XCLIENT_SYNTAX": ["XCLIENT"],
    "BDAT_SYNTAX": ["BDAT x"],
    "BAD_BODY": ["EHLO x", f"{MAIL} BODY=BINARYMIME"],
    "BAD_SIZE": ["EHLO x", f"{MAIL} SIZE=x"],
    "BAD_SMTPUTF8": ["EHLO x", f"{MAIL} SMTPUTF8=x"],
    "UNKNOWN_PARAMETER": ["EHLO x", f"{MAIL} RET=HDRS"],
    "SEND_HELO_FIRST": [MAIL],
    "NESTED_MAIL": ["EHLO x", MAIL, MAIL],
    "SEND_MAIL_FIRST": ["EHLO x", RCPT],
    "SEND_RCPT_FIRST": ["EHLO x", MAIL, "DATA"],
    "BDAT_UNDER_WAY": ["EHLO x", MAIL, RCPT, "BDAT 0", "DATA"],
    "NO_VALID_RECIPIENTS": ["EHLO x", MAIL, "RCPT TO:<no@alpha.test>", "DATA"],
    "NOT_DURING_MAIL": ["EHLO x", MAIL, "XCLIENT ADDR=192.0.2.1"],
    "BAD_SENDER": ["EHLO x", "MAIL FROM:<a@b@c>"],
    "BAD_RECIPIENT": ["EHLO x", MAIL, "RCPT TO:<a@b@c>"],
    "SMTPUTF8_NEEDED": ["EHLO x", "MAIL FROM:<\N{LATIN SMALL LETTER E WITH ACUTE}@sender.test>"],
    "RELAY_DENIED": ["EHLO x", MAIL, "RCPT TO:<you@elsewhere.test>"],
    "UNKNOWN_MAILBOX": ["EHLO x", MAIL, "RCPT TO:<no@alpha.test>"],
    "TOO_BIG": ["EHLO x", f"{MAIL} SIZE=4001"],
    "LOOPING": ["EHLO x", MAIL, RCPT, "DATA", "Received: x\r\n" * 101 + CONTENT],
    "RETURNED": ["EHLO x", MAIL, RCPT, "DATA", "X-Lazaret-Trace: x by lazaret.localhost\r\n" * 2 + CONTENT],
    "REFUSED_BY_POLICY": ["EHLO x", MAIL, "RCPT TO:<bea@beta.test>", "DATA", SPAM.decode() + "."],
    "refuse": [f"XCLIENT ADDR={WITHOUT_PTR}", "EHLO x", MAIL, RCPT],
    "sign": ["EHLO x", MAIL, "RCPT TO:<no@alpha.test>"],
}


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    certificate = {"SMTP_TLS_CERTIFICATE": str(CERTIFICATE), "SMTP_TLS_KEY": str(CERTIFICATE)}
    balancers = {"PROXY_PROTOCOL_NETWORKS": (f"{BALANCER}/32",)}
    with (
        django_db_blocker.unblock(),
        run_name_server(),
        override_settings(**certificate, **balancers),
        run_gateway(limits=LIMITS) as running,
    ):
        yield running


def listen(client, commands: list[str]) -> list[str]:
    """All the lines that are heard in a session of these commands."""
    greeting = client.read_reply()
    client.send("".join(f"{command}\r\n" for command in commands).encode())
    client.socket.shutdown(1)
    lines = [greeting, *client.stream.read().decode("ascii").split("\r\n")]
    client.close()
    return lines


SHAPES = {
    "greet": r"220 lazaret\.localhost ESMTP",
    "answer_helo": r"250 lazaret\.localhost",
    "answer_ehlo": r"250-lazaret\.localhost",
    "accept": r"250 2\.0\.0 Ok: kept as [0-9A-Z]{20}",
    "refuse": r"553 5\.3\.0 Message rejected\. .+ Could not resolve PTR record for 192\.0\.2\.2",
    "sign": r"550 5\.1\.1 No such mailbox here \(trace [0-9A-Z]{20}\)",
}
SIGNATURE = r"( \(trace [0-9A-Z]{20}\))?"


def test_what_is_said_is_answered(gateway):  # D36
    MailDomain.objects.filter(name="beta.test").update(sure_spam_action="refuse")
    gateway.wait_for_change("bea@beta.test", lambda found: found.domain.sure_spam_action == "refuse")
    silent = {}
    for name, commands in SAID.items():
        heard = listen(gateway.connect(greeting=False), commands)
        shape = SHAPES.get(name) or re.escape(str(getattr(replies, name)))
        if not any(re.fullmatch(shape + SIGNATURE, line) for line in heard):
            silent[name] = heard
    assert silent == {}


# What is answered as things stand with us


def test_before_postgres_is_there(gateway, monkeypatch):
    monkeypatch.setattr(gateway.services, "is_ready", False)
    assert listen(gateway.connect(greeting=False), []) == [str(replies.NOT_READY), ""]


def test_while_the_gateway_stops(gateway, monkeypatch):
    monkeypatch.setattr(gateway.services, "is_stopping", True)
    assert listen(gateway.connect(greeting=False), []) == [str(replies.STOPPING), ""]


def test_with_too_many_connections(gateway, monkeypatch):
    clients = [gateway.connect(source="127.0.0.3") for _ in range(3)]
    assert gateway.connect(greeting=False, source="127.0.0.3").read_reply() == str(replies.TOO_MANY_CONNECTIONS)
    monkeypatch.setattr(gateway.services, "limits", Limits(connections=3))
    assert gateway.connect(greeting=False).read_reply() == str(replies.TOO_BUSY)
    for client in clients:
        client.close()


def test_before_the_greeting(gateway):
    assert gateway.connect(greeting=False, source=BALANCER).read_reply() == str(replies.BAD_PROXY)
    with standing_still(gateway):
        client = gateway.connect(greeting=False, early=b"x")
    assert client.read_reply() == str(replies.EARLY_TALKER)


def test_under_load(gateway, monkeypatch):
    load = gateway.services.load
    for reply in (replies.CANNOT_STORE, replies.OVERLOADED, replies.NO_SPACE):
        monkeypatch.setattr(type(load), "refuse_mail", lambda *_, reply=reply: (reply, None))
        assert gateway.open().talk(MAIL, RCPT)[1] == str(reply)
    monkeypatch.setattr(type(load), "refuse_connection", lambda _: (replies.LAGGING, None))
    assert gateway.connect(greeting=False).read_reply() == str(replies.LAGGING)


def test_with_no_room_in_memory(gateway, monkeypatch):
    monkeypatch.setattr(type(gateway.services.memory), "has_room", lambda *_: False)
    assert gateway.open().talk(MAIL, RCPT)[1] == str(replies.NO_ROOM)


def test_by_a_fault(gateway, monkeypatch):
    async def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(gateway.services.recipients, "find", fail)
    assert gateway.open().talk(MAIL, RCPT)[1] == str(replies.TEMPORARY)


def test_with_a_mail_server_that_cannot_be_asked(gateway):
    MailDomain.objects.filter(name="beta.test").update(
        recipient_policy="callout", server_host="127.0.0.1", server_port=9
    )
    gateway.wait_for_change("new@beta.test", lambda found: found.domain.recipient_policy == "callout")
    assert gateway.open().talk(MAIL, "RCPT TO:<new@beta.test>")[1] == str(replies.UNVERIFIED)


def test_of_a_client_that_is_not_trusted(gateway, monkeypatch):
    monkeypatch.setattr(gateway.services, "trusted_networks", ())
    assert gateway.connect().ask("XCLIENT ADDR=192.0.2.1") == str(replies.XCLIENT_DENIED)


def test_under_tls(gateway):
    client = gateway.connect()
    client.ask("STARTTLS")
    client.start_tls()
    assert client.ask("STARTTLS") == str(replies.TLS_ALREADY)


def test_to_the_slow():
    with run_gateway(limits=Limits(command_seconds=0.2)) as gateway:
        assert trickle(gateway.connect()) == str(replies.TOO_SLOW)


def test_every_reply_is_heard_in_some_test():
    """By its name in this file: the cases above, and what the functions below them compare with."""
    source = inspect.getsource(inspect.getmodule(listen))  # type: ignore[arg-type]
    names = {
        name
        for name, value in vars(replies).items()
        if isinstance(value, Reply)
        or (inspect.isfunction(value) and not name.startswith("_") and value.__module__ == replies.__name__)
    }
    heard = set(SAID) | set(re.findall(r"replies\.([A-Z_0-9]+)\b", source))
    assert names == heard & names, names - heard
    assert set(SAID) <= names


@pytest.mark.parametrize(
    "values",
    [
        (250, "5.0.0", "x"),
        (550, "5.7", "x"),
        (550, "5.x.1", "x"),
        (199, "", "x"),
        (600, "", "x"),
        (250, "2.0.0", "a\r\nb"),
        (250, "2.0.0", "\N{LATIN SMALL LETTER E WITH ACUTE}"),
        (250, "2.0.0", "x" * 500),
        (250, "", "x", ("a\nb",)),
    ],
)
def test_a_reply_that_contradicts_itself_cannot_exist(values):
    with pytest.raises(ValueError, match=r"."):
        Reply(*values)


def test_every_reply_but_four_has_an_enhanced_code():  # D36
    without = {name for name, value in vars(replies).items() if isinstance(value, Reply) and not value.enhanced}
    assert without == {"GO_AHEAD"}
    assert not any(
        reply.enhanced for reply in (replies.greet("x"), replies.answer_helo("x"), replies.answer_ehlo("x", ["y"]))
    )
