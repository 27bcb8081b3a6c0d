"""The memory that mail in hand may take: in all, of one client, and of one large message."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from quarantine.gateway.limits import Limits
from quarantine.gateway.memory import COPIES, Memory, Share
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import (
    GO_AHEAD,
    MAIL,
    RCPT,
    RECIPIENT_OK,
)
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")
NO_ROOM = "452 4.3.1 Too much mail at the moment, try again later"


def test_memory_up_to_the_limits():
    memory = Memory(limit=100, client_limit=60)
    first, second, third = shares = [Share(memory, client) for client in ("a", "a", "b")]
    assert first.hold(40)
    assert not second.hold(21)
    assert second.hold(20)
    assert not third.hold(41)
    assert third.hold(40)
    assert memory.taken == 100
    for share in shares:
        share.empty()
    assert memory.taken == 0


def test_an_ipv6_network_is_one_client():
    memory = Memory(limit=100, client_limit=60)
    first, second, third = shares = [
        Share(memory, client) for client in ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1")
    ]
    assert first.hold(40)
    assert not second.hold(21)
    assert not memory.has_room("2001:db8::3", 21)
    assert third.hold(40)
    for share in shares:
        share.empty()
    assert not memory._clients


def test_messages_in_hand_are_bounded_over_all_sessions():
    limits = Limits(memory_octets=COPIES * 100_000, client_memory_octets=COPIES * 60_000)
    line = b"x" * 998 + b"\r\n"
    with run_gateway(limits=limits) as gateway:
        clients = [gateway.open(ip) for ip in ("192.168.0.1", "192.168.0.1", "192.168.0.2", "192.168.0.3")]
        for client in clients[:3]:
            assert client.talk(MAIL, RCPT, "DATA")[2] == GO_AHEAD
        clients[0].send(line * 55)
        clients[2].send(line * 40)
        wait_until(lambda: gateway.services.memory.taken > 94_000)
        clients[1].send(line * 10 + b".\r\n")
        assert clients[1].read_reply() == NO_ROOM  # it is one client's share that is full
        assert clients[3].talk(MAIL + " SIZE=10000", RCPT, "RSET")[1] == NO_ROOM
        clients[2].send(line * 10 + b".\r\n")
        assert clients[2].read_reply() == NO_ROOM  # it is everybody's
        assert clients[3].mail(data=CLEAN).startswith("250 ")
        clients[0].send(b".\r\n")
        assert clients[0].read_reply().startswith("250 ")
        assert clients[1].mail(data=CLEAN).startswith("250 ")
        wait_until(lambda: gateway.services.memory.taken == 0)
        assert not gateway.services.memory._clients


def read_memory(name: str) -> int:
    """Octets of this process, by the kernel's account: VmRSS now, VmHWM at most since the peak was forgotten."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_a_large_message_takes_no_more_memory_than_is_reckoned(command):
    """Base64 of noise: what cannot be compressed much is copied most."""
    body = base64.encodebytes(random.Random(1).randbytes(23 * 2**20)).replace(b"\n", b"\r\n")
    content = CLEAN + b"\r\n" + body
    with run_gateway() as gateway:
        client = gateway.open()
        client.talk(MAIL, RCPT)
        Path("/proc/self/clear_refs").write_text("5")
        before = read_memory("VmRSS")
        if command == "DATA":
            assert client.ask("DATA") == GO_AHEAD
            client.send(content)
            client.send(b".\r\n")
        else:
            client.send(b"BDAT %d LAST\r\n" % len(content))
            client.send(content)
        assert client.read_reply().startswith("250 ")
        assert read_memory("VmHWM") - before <= COPIES * len(content)
        client.close()


def test_a_message_that_is_alone_finds_room_and_leaves_none_behind_when_its_client_goes():
    with run_gateway(limits=Limits(memory_octets=COPIES * 100, client_memory_octets=COPIES * 50)) as gateway:
        client = gateway.open()
        assert client.mail(data=CLEAN + b"x" * 500 + b"\r\n").startswith("250 ")
        client.talk(MAIL, RCPT, "DATA")
        client.send(b"x" * 5000)
        wait_until(lambda: gateway.services.memory.taken >= 5000)
        assert gateway.open().talk(MAIL, RCPT)[1] == NO_ROOM
        client.close()
        wait_until(lambda: gateway.services.memory.taken == 0)
        assert gateway.open().talk(MAIL, RCPT)[1] == RECIPIENT_OK
