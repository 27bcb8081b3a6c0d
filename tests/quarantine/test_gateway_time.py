"""The time that a client may take: silence, trickles and replies that nobody reads are cut, our own work is not."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from django.test import override_settings

from filtering.evidence import PtrEvidence
from portal.settings.environment import PROJECT
from quarantine.gateway.inlet import Pace, Progress
from quarantine.gateway.limits import Limits
from tests.quarantine.gateways import run_gateway, trickle
from tests.quarantine.test_gateway_mail import CLEAN, list_rows
from tests.quarantine.test_gateway_session import (
    GO_AHEAD,
    MAIL,
    RCPT,
    RECIPIENT_OK,
    SENDER_OK,
)
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")
TOO_SLOW = "421 4.4.2 Timeout, closing the connection"


def test_silence_ends_with_a_reply():
    limits = Limits(command_seconds=0.2, pace=Pace(silence=0.2))
    with run_gateway(limits=limits) as gateway:
        silent, client = gateway.connect(), gateway.open()
        client.talk(MAIL, RCPT, "DATA")
        client.send(b"Subject: x\r\n")
        for one in (silent, client):
            assert one.read_reply() == TOO_SLOW
            assert one.is_closed()


def test_a_message_that_trickles_is_cut():  # W01
    limits = Limits(pace=Pace(silence=5, grace=0.3, rate=1000))
    with run_gateway(limits=limits) as gateway:
        client = gateway.open()
        client.talk(MAIL, RCPT, "DATA")
        assert trickle(client) == TOO_SLOW


SLIDING = Pace(silence=5, grace=0.3, rate=1000, credit=0.3)


def test_a_message_that_trickles_after_a_burst_is_cut():  # W01
    with run_gateway(limits=Limits(pace=SLIDING)) as gateway:
        client = gateway.open()
        client.talk(MAIL, RCPT, "DATA")
        client.send(b"x" * 1_000_000)
        assert trickle(client) == TOO_SLOW
        wait_until(lambda: gateway.services.memory.taken == 0)


def test_a_chunk_that_trickles_after_a_burst_is_cut():  # W01
    with run_gateway(limits=Limits(pace=SLIDING)) as gateway:
        client = gateway.open()
        client.talk(MAIL, RCPT)
        client.send(b"BDAT 2000000\r\n" + b"x" * 1_000_000)
        assert trickle(client) == TOO_SLOW


@pytest.mark.parametrize("begin", ["DATA\r\n", "BDAT 2000000\r\n"])
def test_a_message_that_is_dropped_is_read_for_some_time_only(begin):
    limits = Limits(message_octets=1000, pace=Pace(silence=5, grace=0.3, rate=0.001))
    with run_gateway(limits=limits) as gateway:
        client = gateway.open()
        client.talk(MAIL, RCPT)
        client.send(begin.encode() + b"x" * 2000)
        if begin == "DATA\r\n":
            assert client.read_reply() == GO_AHEAD
        assert trickle(client) == TOO_SLOW


@pytest.mark.parametrize("begin", ["DATA\r\n", "BDAT 2000000\r\n"])
def test_of_a_message_that_is_dropped_only_so_much_is_read(monkeypatch, begin):
    monkeypatch.setattr("quarantine.gateway.inlet.DROPPED_OCTETS", 10_000)
    with run_gateway(limits=Limits(message_octets=1000)) as gateway:
        client = gateway.open()
        client.talk(MAIL, RCPT)
        client.send(begin.encode() + b"x" * 9000)
        if begin == "DATA\r\n":
            assert client.read_reply() == GO_AHEAD
        client.send(b"x" * 2000)
        assert client.read_reply() == TOO_SLOW
        assert client.is_closed()


def test_seconds_for_a_message():
    pace, progress = Pace(silence=1000, grace=300, rate=500, credit=60), Progress(0)
    progress.add(50_000, pace, 0)
    assert progress.get_seconds_left(pace, 0) == 300  # early octets earn nothing
    progress.add(5000, pace, 290)
    assert progress.get_seconds_left(pace, 290) == 20
    progress.add(10**6, pace, 300)
    assert progress.get_seconds_left(pace, 300) == 60


def test_a_command_that_trickles_is_cut():
    with run_gateway(limits=Limits(command_seconds=0.3)) as gateway:
        assert trickle(gateway.open()) == TOO_SLOW


def test_a_handshake_that_does_not_come_is_cut():
    certificate = str(PROJECT / "tests/smtp_sink.pem")
    with (
        override_settings(SMTP_TLS_CERTIFICATE=certificate, SMTP_TLS_KEY=certificate),
        run_gateway(limits=Limits(handshake_seconds=0.2)) as gateway,
    ):
        client = gateway.open()
        assert client.ask("STARTTLS") == "220 2.0.0 Ready to start TLS"
        assert client.is_closed()


def test_a_client_that_reads_no_replies_is_cut():
    with run_gateway(limits=Limits(command_seconds=0.5, idle_commands=10**9)) as gateway:
        client = gateway.open()
        client.socket.settimeout(0.2)
        with suppress(OSError):
            client.send(b"EHLO x\r\n" * 60_000)
        wait_until(lambda: not gateway.services.sessions)


def test_our_own_work_is_in_nobodys_timeout(monkeypatch):
    limits = Limits(command_seconds=0.1, pace=Pace(silence=0.1, grace=0.1))
    with run_gateway(limits=limits) as gateway:
        receive = gateway.services.intake.receive

        async def receive_slowly(*arguments):
            await asyncio.sleep(0.5)
            return await receive(*arguments)

        monkeypatch.setattr(gateway.services.intake, "receive", receive_slowly)
        client = gateway.open()
        client.send(b"\r\n".join([MAIL.encode(), RCPT.encode(), b"DATA", CLEAN + b".", b""]))
        replies = [client.read_reply() for _ in range(4)]
        assert replies[3].startswith("250 ")
        assert list_rows() == [("bob@alpha.test", "delivering")]


def test_a_reply_does_not_wait_for_what_we_look_up():  # RFC 2920 section 3.2
    with run_gateway() as gateway:
        released = threading.Event()

        async def look_up_slowly(ip):
            await asyncio.to_thread(released.wait, 20)
            return PtrEvidence()

        gateway.services.look_up_ptr = look_up_slowly
        client = gateway.open()
        client.send(f"{MAIL}\r\n{RCPT}\r\n".encode())
        assert client.read_reply() == SENDER_OK
        released.set()
        assert client.read_reply() == RECIPIENT_OK
