"""Every end of a connection is on record with its cause, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest
from django.test import override_settings

from portal.settings.environment import Address
from portal.web.views.health import _read_banner
from quarantine.causes import Cause
from quarantine.gateway import connection, replies, services
from quarantine.gateway.inlet import Pace
from quarantine.gateway.limits import Limits
from quarantine.platform.models import Unrouted
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_meeting import BALANCER, standing_still
from tests.quarantine.test_gateway_session import MAIL
from tests.quarantine.test_metrics import Change
from tests.running_courier import wait_until
from tests.smtp_sink import CERTIFICATE

pytestmark = pytest.mark.usefixtures("committed")

TRUSTED = "127.0.0.6"
LIMITS = Limits(
    command_seconds=1,
    proxy_seconds=0.1,
    handshake_seconds=0.2,
    errors=2,
    idle_commands=3,
    client_connections=1,
    messages=0,
    pace=Pace(silence=0.2),
)


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with (
        django_db_blocker.unblock(),
        override_settings(
            SMTP_TLS_CERTIFICATE=str(CERTIFICATE),
            SMTP_TLS_KEY=str(CERTIFICATE),
            PROXY_PROTOCOL_NETWORKS=(f"{BALANCER}/32",),
        ),
        run_gateway(limits=LIMITS) as running,
    ):
        yield running


def list_ends(gateway) -> list[tuple[str, str, str]]:
    gateway.settle()
    return list(Unrouted.objects.order_by("id").values_list("outcome", "cause", "reply"))


def hang_up(gateway):
    gateway.connect().close()


def balance(gateway, header: bytes):
    client = gateway.connect(greeting=False, source=BALANCER, early=header)
    assert client.read_reply().startswith("220 ")
    return client


def quit_at_once(gateway):
    balance(gateway, b"PROXY TCP4 192.0.2.9 192.0.2.1 1 25\r\n").ask("QUIT")


def say_more_than_a_probe(gateway):
    gateway.connect().talk("NOOP", "QUIT")


def stay_silent(gateway):
    gateway.connect().is_closed()


def begin_no_handshake(gateway):
    client = gateway.connect()
    client.ask("STARTTLS")
    assert client.is_closed()


def begin_a_wrong_handshake(gateway):
    client = gateway.connect()
    client.ask("STARTTLS")
    client.send(b"NOOP\r\n" * 20)
    while client.socket.recv(1024):
        pass


def hang_up_in_the_handshake(gateway):
    client = gateway.connect()
    client.ask("STARTTLS")
    client.close()


def make_errors(gateway):
    gateway.connect().talk("BOGUS", "BOGUS")


def talk_idly(gateway):
    gateway.connect().talk("NOOP", "NOOP", "NOOP")


def lose_count(gateway):
    gateway.connect().ask("BDAT x")


def send_one_message_more(gateway):
    gateway.connect().talk("HELO x", MAIL)


def send_a_chunk_for_nobody(gateway):
    client = gateway.connect()
    client.send(b"BDAT 10\r\nx")
    assert client.is_closed() is False


def ask_for_a_page(gateway):
    gateway.connect().ask("GET / HTTP/1.1")


def connect_twice(gateway):
    first = gateway.connect(source="127.0.0.5")
    second = gateway.connect(greeting=False, source="127.0.0.5")
    assert second.read_reply() == str(replies.TOO_MANY_CONNECTIONS)
    first.talk("NOOP", "QUIT")


def balance_without_a_header(gateway):
    assert gateway.connect(greeting=False, source=BALANCER).is_closed() is False


def speak_too_early(gateway):
    with standing_still(gateway):
        client = gateway.connect(greeting=False, early=b"EHLO x\r\n")
    client.read_reply()


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (hang_up, [("unfinished", "no_mail", None)]),
        (quit_at_once, [("unfinished", "no_mail", None)]),
        (say_more_than_a_probe, [("unfinished", "no_mail", None)]),
        (stay_silent, [("unfinished", "timeout", replies.TOO_SLOW)]),
        (begin_no_handshake, [("unfinished", "tls_failed", None)]),
        (begin_a_wrong_handshake, [("unfinished", "tls_failed", None)]),
        (hang_up_in_the_handshake, [("unfinished", "tls_failed", None)]),
        (make_errors, [("deferred", "too_many_errors", replies.TOO_MANY_ERRORS)]),
        (talk_idly, [("deferred", "too_many_commands", replies.TOO_MANY_COMMANDS)]),
        (lose_count, [("deferred", "syntax", replies.OUT_OF_STEP)]),
        (send_one_message_more, [("deferred", "too_many_messages", replies.TOO_MANY_MESSAGES)]),
        (send_a_chunk_for_nobody, [("unfinished", "timeout", replies.TOO_SLOW)]),
        (ask_for_a_page, [("deferred", "not_smtp", replies.NOT_SMTP)]),
        (
            connect_twice,
            [("deferred", "too_many_connections", replies.TOO_MANY_CONNECTIONS), ("unfinished", "no_mail", None)],
        ),
        (balance_without_a_header, [("deferred", "bad_proxy", replies.BAD_PROXY)]),
        (speak_too_early, [("deferred", "early_talker", replies.EARLY_TALKER)]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_how_a_connection_ended_is_on_record(gateway, end, expected):
    end(gateway)
    assert list_ends(gateway) == [(outcome, cause, str(reply or "")) for outcome, cause, reply in expected]
    assert not gateway.services._clients


@pytest.mark.parametrize(
    ("end", "replies_given"),
    [
        (speak_too_early, [["CONNECT", replies.EARLY_TALKER]]),
        (balance_without_a_header, [["CONNECT", replies.BAD_PROXY]]),
        (stay_silent, [["CONNECT", replies.greet("lazaret.localhost")], [Cause.TIMEOUT.label, replies.TOO_SLOW]]),
        (ask_for_a_page, [["CONNECT", replies.greet("lazaret.localhost")], ["GET", replies.NOT_SMTP]]),
    ],
)
def test_every_reply_of_a_connection_without_mail_is_on_record_once(gateway, end, replies_given):
    end(gateway)
    gateway.settle()
    told = [one[:2] for one in Unrouted.objects.get().replies]  # late ones have their time, too
    assert told == [[command, str(reply)] for command, reply in replies_given]


@pytest.mark.parametrize("delivered", [0, 1])
def test_our_last_words_after_mail_that_was_refused_are_no_greeting(delivered):
    with run_gateway(limits=Limits(errors=2)) as gateway:
        client = gateway.open()
        for _ in range(delivered):
            assert client.mail(data=CLEAN).startswith("250 ")
        client.talk(*["MAIL FROM:<a@b.test> SIZE=99999999999"] * 2)
        assert client.read_reply() == str(replies.TOO_MANY_ERRORS)
        gateway.settle()
    row = Unrouted.objects.get(cause="too_many_errors")
    assert [one[:2] for one in row.replies] == [[Cause.TOO_MANY_ERRORS.label, str(replies.TOO_MANY_ERRORS)]]


def hang_up_before_the_greeting(gateway):
    client = gateway.connect(greeting=False, source=BALANCER)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()


@pytest.mark.parametrize("end", [speak_too_early, hang_up_before_the_greeting])
def test_of_a_connection_that_ended_before_the_greeting_reverse_dns_was_not_asked_for(gateway, end):
    end(gateway)
    gateway.settle()
    row = Unrouted.objects.get()
    assert (row.ptr_status, row.ptr_detail) == ("skipped", "not asked: the connection ended before the greeting")


def ask_as_healthz_does(gateway):
    with override_settings(SUPERVISED=True, SMTP_ADDRESS=Address("127.0.0.1", gateway.port)):
        assert asyncio.run(_read_banner())


def ask_from_our_own_address(gateway):
    gateway.connect(source="127.0.0.1").ask("QUIT")


def ask_as_a_trusted_peer(gateway):
    gateway.connect(source=TRUSTED).ask("QUIT")


def ask_as_a_balancer_for_itself(gateway):
    balance(gateway, b"PROXY UNKNOWN\r\n").ask("QUIT")


@pytest.mark.parametrize(
    ("ask", "loopback"),
    [
        (ask_as_healthz_does, services.LOOPBACK),
        (ask_from_our_own_address, ()),
        (ask_as_a_trusted_peer, ()),
        (ask_as_a_balancer_for_itself, ()),
    ],
)
def test_whoever_of_us_only_asks_if_we_are_there_is_neither_counted_nor_on_record(gateway, monkeypatch, ask, loopback):
    monkeypatch.setattr(services, "LOOPBACK", loopback)
    monkeypatch.setattr(gateway.services, "trusted_networks", (f"{TRUSTED}/32",))
    change = Change()
    ask(gateway)
    assert list_ends(gateway) == []
    assert change.list("connections_total") == change.list("commands_total") == {}


def test_a_client_that_does_not_read_our_last_words_is_not_kept(monkeypatch):
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.2)
    with run_gateway(limits=Limits(command_seconds=0.2, idle_commands=10**9)) as gateway:
        client = gateway.open()
        client.socket.settimeout(0.2)
        [session] = gateway.services.sessions
        with suppress(OSError):
            client.send(b"EHLO x\r\n" * 60_000)
        wait_until(lambda: session._wire is None)
