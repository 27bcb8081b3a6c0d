"""Every limit of quarantine/gateway/limits.py: what is at it is taken, and one more is answered as the docs say."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
from django.test import override_settings

from portal.settings.environment import PROJECT
from quarantine.gateway.limits import Limits
from quarantine.gateway.server import make_limits
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN, HEADER, list_rows, read_back
from tests.quarantine.test_gateway_session import (
    GO_AHEAD,
    MAIL,
    OK,
    RCPT,
    RECIPIENT_OK,
    SENDER_OK,
    TOO_BIG,
    UNKNOWN_COMMAND,
    UNKNOWN_MAILBOX,
)
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")

TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients in one message, send the others in another"
TOO_MANY_ERRORS = "421 4.7.0 Too many errors, closing the connection"
TOO_MANY_COMMANDS = "421 4.7.0 Too many commands without mail, closing the connection"
TOO_MANY_MESSAGES = "421 4.7.0 Many messages in one connection, please connect again"
TOO_MANY_CONNECTIONS = "421 4.7.0 Too many connections from your address, try again later"
TOO_BUSY = "421 4.3.2 Too many connections, try again later"
TOO_LONG = "500 5.5.2 Command line too long"
LIMITS = Limits()


def list_limits() -> dict[str, float]:
    found = {}
    for field in fields(LIMITS):
        value = getattr(LIMITS, field.name)
        parts = (
            {f"{field.name}.{part.name}": getattr(value, part.name) for part in fields(value)}
            if (is_dataclass(value))
            else {field.name: value}
        )
        found |= parts
    return found


def test_the_docs_have_every_limit_and_its_value():
    text = (PROJECT / "docs/configuration.md").read_text()
    table = text.partition("| limit | value | of what | beyond it |\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    assert {name.strip("`"): float(value) for name, value, *_ in rows} == list_limits()


def test_the_operators_limits_are_those_of_the_environment():
    chosen = {"MAX_MESSAGE_BYTES": 70_000, "MAX_RECIPIENTS": 101, "MAX_CONNECTIONS": 12, "MAX_CLIENT_CONNECTIONS": 3}
    with override_settings(**chosen):
        limits = make_limits()
    assert (limits.message_octets, limits.recipients) == (70_000, 101)
    assert (limits.connections, limits.client_connections) == (12, 3)
    assert make_limits() == LIMITS


# As they are by default


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway() as running:
        yield running


def talk_at_once(client, commands: list[str]) -> list[str]:
    client.send("".join(f"{command}\r\n" for command in commands).encode())
    return [client.read_reply() for _ in commands]


def test_a_thousand_recipients_are_taken_and_one_more_is_put_off(gateway):  # L06, L07
    client = gateway.open()
    client.ask(MAIL)
    replies = talk_at_once(client, [f"RCPT TO:<bob+{n}@alpha.test>" for n in range(LIMITS.recipients)])
    assert replies == [RECIPIENT_OK] * 1000
    assert client.ask("RCPT TO:<bob+more@alpha.test>") == TOO_MANY_RECIPIENTS
    assert client.ask("DATA") == GO_AHEAD
    assert client.send_data(CLEAN).startswith("250 ")
    delivering = [address for address, state in list_rows() if state == "delivering"]
    assert len(delivering) == len(set(delivering)) == 1000
    assert "bob+more@alpha.test" not in delivering


def test_command_lines_up_to_4096_octets(gateway):  # A27
    client = gateway.connect()
    assert client.ask("NOOP " + "x" * 3000) == OK
    assert client.ask("NOOP " + "x" * (4096 - 7)) == OK
    assert client.ask("NOOP " + "x" * (4096 - 6)) == TOO_LONG
    assert client.ask("NOOP") == OK


def test_a_line_without_end_takes_no_memory(gateway):  # A28
    client = gateway.connect()
    largest = 0
    for _ in range(64):
        client.send(b"x" * 16_384)
        [session] = gateway.services.sessions
        largest = max(largest, len(session._inlet._buffer))
    assert client.talk("", "NOOP") == [TOO_LONG, OK]
    assert largest < 300_000


def test_two_hundred_noops_are_cut(gateway):  # L11
    client = gateway.connect()
    assert talk_at_once(client, ["NOOP"] * 200)[:101] == [OK] * 100 + [TOO_MANY_COMMANDS]
    assert client.is_closed()


def test_fifty_failing_recipients_are_cut(gateway):  # L12
    client = gateway.open()
    client.ask(MAIL)
    replies = talk_at_once(client, [f"RCPT TO:<guess{n}@alpha.test>" for n in range(50)])
    assert replies[:46] == [UNKNOWN_MAILBOX] * 45 + [TOO_MANY_ERRORS]
    assert client.is_closed()


def test_twenty_five_unknown_commands_are_cut(gateway):  # L13
    client = gateway.connect()
    assert talk_at_once(client, ["BOGUS"] * 25)[:21] == [UNKNOWN_COMMAND] * 20 + [TOO_MANY_ERRORS]
    assert client.is_closed()


@pytest.mark.parametrize("length", [1000, 1001, 5000, 64 * 1024, 64 * 1024 + 1, 3_000_000])
def test_lines_of_any_length_are_kept_as_they_are(gateway, length):  # L08, L09, L10
    client = gateway.open()
    line = b"x" * (length - 2) + b"\r\n"
    assert read_back(client.mail(data=HEADER + b"\r\n" + line)) == HEADER + b"\r\n" + line
    assert client.ask("NOOP") == OK


def test_fifty_connections_of_one_client_and_no_more(gateway):
    clients = [gateway.connect(source="127.0.0.9") for _ in range(LIMITS.client_connections)]
    assert gateway.connect(greeting=False, source="127.0.0.9").read_reply() == TOO_MANY_CONNECTIONS
    assert gateway.connect(source="127.0.0.10").ask("NOOP") == OK
    assert clients[0].ask("QUIT") == "221 2.0.0 Bye"
    assert clients[0].is_closed()
    assert gateway.connect(source="127.0.0.9").ask("NOOP") == OK
    for client in clients:
        client.close()


def test_five_hundred_idle_connections_stop_nobody(gateway):  # W02
    idle = [gateway.connect(source=f"127.0.1.{n % 10}") for n in range(500)]
    assert gateway.open().mail(data=CLEAN).startswith("250 ")
    assert [client.ask("NOOP") for client in idle[::100]] == [OK] * 5
    for client in idle:
        client.close()


# Lower ones, so that what is at and beyond them can be sent


@pytest.fixture(scope="module")
def strict(django_db_setup, django_db_blocker):
    limits = Limits(
        message_octets=1000,
        command_octets=512,
        recipients=3,
        errors=5,
        failed_recipients=4,
        idle_commands=6,
        messages=2,
        connections=8,
    )
    with django_db_blocker.unblock(), run_gateway(limits=limits) as running:
        yield running


def test_short_command_lines(strict):
    client = strict.connect()
    assert client.ask("NOOP " + "x" * 505) == OK
    assert client.ask("NOOP " + "x" * 506) == TOO_LONG
    client.send(b"x" * 1_000_000)
    assert client.talk("", "NOOP") == [TOO_LONG, OK]


@pytest.mark.parametrize("unit", [b"x", b".\r\n"], ids=["octets", "dots"])
def test_messages_up_to_the_limit_without_doubled_dots(strict, unit):  # L05
    largest = (HEADER + b"\r\n" + unit * 1000)[:998] + b"\r\n"
    client = strict.open()
    assert client.ask(f"{MAIL} SIZE=1001") == TOO_BIG  # L02
    assert client.talk(f"{MAIL} SIZE=1000", RCPT, "DATA") == [SENDER_OK, RECIPIENT_OK, GO_AHEAD]
    assert read_back(client.send_data(largest)) == largest
    assert client.talk(MAIL, RCPT, "DATA") == [SENDER_OK, RECIPIENT_OK, GO_AHEAD]
    assert client.send_data(largest[:-2] + b"x\r\n") == TOO_BIG
    assert client.ask("NOOP") == OK


def test_recipients_over_the_limit_are_put_off_and_the_others_kept(strict):  # L07
    client = strict.open()
    client.ask(MAIL)
    names = ["bob@alpha.test", "carol@alpha.test", "dora@alpha.test", "bea@beta.test"]
    assert [client.ask(f"RCPT TO:<{name}>") for name in names] == [RECIPIENT_OK] * 3 + [TOO_MANY_RECIPIENTS]
    assert client.ask("DATA") == GO_AHEAD
    assert client.send_data(CLEAN).startswith("250 ")
    assert [address for address, state in list_rows() if state == "delivering"] == names[:3]


@pytest.mark.parametrize(
    ("command", "reply", "times", "last"),
    [
        ("BOGUS", UNKNOWN_COMMAND, 5, TOO_MANY_ERRORS),  # L13
        ("NOOP", OK, 6, TOO_MANY_COMMANDS),  # L11
        ("RSET", OK, 6, TOO_MANY_COMMANDS),
        ("HELO x", "250 lazaret.localhost", 6, TOO_MANY_COMMANDS),
        ("VRFY bob", "252 2.5.0 Cannot verify, but will take the message and try", 6, TOO_MANY_COMMANDS),
        ("XCLIENT ADDR=127.0.0.1", "220 lazaret.localhost ESMTP", 6, TOO_MANY_COMMANDS),
    ],
)
def test_idle_talk_is_cut(strict, command, reply, times, last):
    client = strict.connect()
    assert client.talk(*[command] * times) == [reply] * times
    assert client.read_reply() == last
    assert client.is_closed()


def test_guessing_of_mailboxes_is_cut(strict):  # L12
    client = strict.open()
    replies = client.talk(MAIL, *[f"RCPT TO:<guess{n}@alpha.test>" for n in range(4)])
    assert replies[1:] == [UNKNOWN_MAILBOX] * 4
    assert client.read_reply() == TOO_MANY_ERRORS


def test_a_message_forgives_what_was_before_it(strict):
    client = strict.open()
    for _ in range(2):
        client.talk(*["BOGUS"] * 4, *["NOOP"] * 4, MAIL, *[f"RCPT TO:<guess{n}@alpha.test>" for n in range(3)])
        assert client.talk(RCPT, "DATA") == [RECIPIENT_OK, GO_AHEAD]
        assert client.send_data(CLEAN).startswith("250 ")


def test_a_connection_carries_so_many_messages(strict):
    client = strict.open()
    assert [client.mail(data=CLEAN)[:3] for _ in range(2)] == ["250", "250"]
    assert client.ask(MAIL) == TOO_MANY_MESSAGES
    assert client.is_closed()


def test_connections_in_all(strict):
    wait_until(lambda: not strict.services.sessions)
    clients = [strict.connect(source=f"127.0.0.{n + 10}") for n in range(8)]
    assert strict.connect(greeting=False, source="127.0.0.99").read_reply() == TOO_BUSY
    assert clients[0].ask("QUIT") == "221 2.0.0 Bye"
    assert clients[0].is_closed()
    assert strict.connect(source="127.0.0.99").ask("NOOP") == OK
    for client in clients:
        client.close()


def test_connections_of_an_ipv6_network_are_those_of_one_client():
    with run_gateway(limits=Limits(client_connections=2)) as gateway:
        gateway.services.balancer_networks = ("127.0.0.9/32",)
        clients = [connect_for(gateway, f"2001:db8::{n}") for n in (1, 2, 3)]
        assert [client.read_reply()[:4] for client in clients] == ["220 ", "220 ", "421 "]
        assert connect_for(gateway, "2001:db8:0:1::1").read_reply()[:4] == "220 "
        for client in clients:
            client.close()
        wait_until(lambda: not gateway.services._clients["2001:db8::/64"])
        assert connect_for(gateway, "2001:db8::4").read_reply()[:4] == "220 "


def connect_for(gateway, ip: str):
    client = gateway.connect(greeting=False, source="127.0.0.9")
    client.send(f"PROXY TCP6 {ip} 2001:db8::25 4000 25\r\n".encode())
    return client


def test_recipients_that_bring_no_mail_on_are_cut_and_delay_nobody():
    with run_gateway(limits=Limits(recipient_commands=500)) as gateway:
        bad, other = gateway.open(), gateway.open()
        bad.ask(MAIL)
        bad.send(f"{RCPT}\r\n".encode() * 20_000)
        assert other.mail(data=CLEAN).startswith("250 ")
        replies = [bad.read_reply() for _ in range(501)]
        assert replies == [RECIPIENT_OK] * 500 + ["421 4.7.0 Too many commands without mail, closing the connection"]
