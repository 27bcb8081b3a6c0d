"""Before the greeting: load balancers that say for whom they speak, and clients that do not wait."""

from __future__ import annotations

import ipaddress
import threading
from contextlib import contextmanager

import pytest
from django.test import override_settings
from django_tenants.utils import schema_context
from hypothesis import given
from hypothesis import strategies as st

from quarantine.gateway.limits import Limits
from quarantine.gateway.proxy import SIGNATURE, BadHeaderError, measure_rest, read_version_1, read_version_2
from quarantine.models import Message
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import OK, UNKNOWN_COMMAND

pytestmark = pytest.mark.usefixtures("committed")

GREETING = "220 lazaret.localhost ESMTP"
BAD_PROXY = "421 4.3.5 The load balancer did not say for whom it speaks"
EARLY_TALKER = "421 4.7.0 You spoke before you were greeted, closing the connection"
TOO_MANY = "421 4.7.0 Too many connections from your address, try again later"
BALANCER = "127.0.0.2"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with (
        django_db_blocker.unblock(),
        override_settings(PROXY_PROTOCOL_NETWORKS=(f"{BALANCER}/32",)),
        run_gateway(limits=Limits(client_connections=3)) as running,
    ):
        yield running


def make_version_2(
    source: str, destination: str = "", *, command: int = 0x21, family: int = 0, more: bytes = b""
) -> bytes:
    ip = ipaddress.ip_address(source)
    rest = ip.packed + (ipaddress.ip_address(destination) if destination else ip).packed + b"\x30\x39\x00\x19" + more
    head = bytes([command, family or (0x11 if ip.version == 4 else 0x21)])
    return SIGNATURE + head + len(rest).to_bytes(2) + rest


def meet(gateway, header: bytes):
    """Through the balancer."""
    client = gateway.connect(greeting=False, source=BALANCER, early=header)
    return client, client.read_reply()


@pytest.mark.parametrize(
    ("header", "ip"),
    [
        (b"PROXY TCP4 192.0.2.9 192.0.2.1 12345 25\r\n", "192.0.2.9"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 12345 25\r\n", "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::1 1 25\r\n", "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n", BALANCER),
        (b"PROXY UNKNOWN ffff::1 and more\r\n", BALANCER),
        (make_version_2("192.0.2.9"), "192.0.2.9"),
        (make_version_2("2001:db8::9", more=b"\x04\0\x01x"), "2001:db8::9"),
        (make_version_2("192.0.2.9", command=0x20), BALANCER),  # LOCAL: a health check
        (SIGNATURE + b"\x20\0\0\0", BALANCER),
        (make_version_2("192.0.2.9", family=0x12), BALANCER),  # UDP is nothing that we know
    ],
)
def test_a_load_balancer_says_who_the_client_is(gateway, header, ip):
    client, greeting = meet(gateway, header)
    assert greeting == GREETING
    client.ask("EHLO client.test")
    assert client.mail("x@sender.test", "postmaster@alpha.test", data=CLEAN).startswith("250 ")
    with schema_context("sp_acme"):
        assert str(Message.objects.get().client_ip) == ip


def test_the_stated_client_is_judged_and_not_trusted_for_the_balancers_sake(gateway, monkeypatch):
    monkeypatch.setattr(gateway.services, "trusted_networks", ("127.0.0.0/8",))
    client, greeting = meet(gateway, b"PROXY TCP4 192.0.2.9 192.0.2.1 12345 25\r\n")
    assert greeting == GREETING
    assert client.ask("XCLIENT ADDR=192.0.2.10") == "550 5.7.0 Not authorized to use this command"


def test_connections_are_counted_by_the_stated_client(gateway):
    def connect(ip: str):
        return meet(gateway, f"PROXY TCP4 {ip} 192.0.2.1 1 25\r\n".encode())

    clients = [connect("192.0.2.50") for _ in range(3)]
    assert connect("192.0.2.50")[1] == TOO_MANY
    clients += [connect("192.0.2.51") for _ in range(3)]
    assert [greeting for _, greeting in clients] == [GREETING] * 6
    assert clients[0][0].ask("QUIT") == "221 2.0.0 Bye"
    assert clients[0][0].is_closed()
    assert connect("192.0.2.50")[1] == GREETING
    for client, _ in clients:
        client.close()


@pytest.mark.parametrize(
    "header",
    [
        b"EHLO x\r\n",
        b"\r\n" * 8,
        b"PROXY\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 12345 25\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 12345\r\n",
        b"PROXY TCP4 192.0.2.9  192.0.2.1 1 25\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 65536 25\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 -1 25\r\n",
        b"PROXY TCP4 2001:db8::9 2001:db8::1 1 25\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 1 25\r\n",
        b"PROXY UDP4 192.0.2.9 192.0.2.1 1 25\r\n",
        b"PROXY TCP4 localhost localhost 1 25\r\n",
        b"proxy tcp4 192.0.2.9 192.0.2.1 1 25\r\n",
        b"PROXY TCP4 192.0.2.9 192.0.2.1 1 25" + b" " * 100 + b"\r\n",
        SIGNATURE + b"\x11\x11\0\0",  # version 1 in the words of version 2
        SIGNATURE + b"\x22\x11\0\0",  # no such command
        SIGNATURE + b"\x21\x11\0\x04abcd",  # too short for its addresses
        SIGNATURE + b"\x21\x41\0\x04abcd",  # no such family
        SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 70_000,
    ],
)
def test_a_load_balancer_that_does_not_say_is_turned_away(gateway, header):
    client, reply = meet(gateway, header)
    assert reply == BAD_PROXY
    assert client.is_closed()


def test_a_header_that_does_not_come_is_not_waited_for():
    with run_gateway(limits=Limits(proxy_seconds=0.3)) as gateway:
        gateway.services.balancer_networks = (f"{BALANCER}/32",)
        for start in (b"", b"PROXY TCP4 192.0", SIGNATURE, make_version_2("192.0.2.9")[:-1]):
            client, reply = meet(gateway, start)
            assert reply == BAD_PROXY
            assert client.is_closed()


def test_a_header_from_anybody_else_is_no_command(gateway):  # D38
    client = gateway.connect()
    assert client.talk("PROXY TCP4 192.0.2.9 192.0.2.1 12345 25", "EHLO x")[0] == UNKNOWN_COMMAND
    assert client.mail(data=CLEAN).startswith("250 ")
    with schema_context("sp_acme"):
        assert str(Message.objects.get().client_ip) == "127.0.0.1"


def test_a_header_twice_is_no_command(gateway):  # D38
    client, reply = meet(gateway, b"PROXY UNKNOWN\r\n")
    assert reply == GREETING
    assert client.ask("PROXY TCP4 192.0.2.9 192.0.2.1 12345 25") == UNKNOWN_COMMAND


@given(st.binary(max_size=120))
def test_any_line_is_a_header_or_none(line):
    try:
        stated = read_version_1(b"PROXY " + line)
    except BadHeaderError:
        return
    assert not stated or ipaddress.ip_address(stated)


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=60))
def test_any_octets_are_a_header_or_none(head, rest):
    head = SIGNATURE + head
    try:
        measure_rest(head)
        stated = read_version_2(head, rest)
    except BadHeaderError:
        return
    assert not stated or ipaddress.ip_address(stated)


@given(st.ip_addresses(), st.data())
def test_what_was_stated_is_what_is_read(ip, data):
    other = data.draw(st.ip_addresses(v=ip.version))
    wire = make_version_2(str(ip), str(other))
    assert measure_rest(wire[:16]) == len(wire) - 16
    assert read_version_2(wire[:16], wire[16:]) == str(ip)
    assert read_version_1(f"PROXY TCP{ip.version} {ip} {other} 1 65535\r\n".encode()) == str(ip)


# Clients that do not wait


@contextmanager
def standing_still(gateway):
    """The gateway accepts nobody meanwhile."""
    goes_on = threading.Event()
    gateway.loop.call_soon_threadsafe(goes_on.wait, 20)
    try:
        yield
    finally:
        goes_on.set()


@pytest.mark.parametrize("source", ["127.0.0.1", BALANCER])
@pytest.mark.parametrize("octets", [b"\r\n", b"E", b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@alpha.test>\r\n"])
def test_who_speaks_before_the_greeting_is_not_heard(gateway, source, octets):  # D35
    header = b"PROXY TCP4 192.0.2.77 192.0.2.1 1 25\r\n" if source == BALANCER else b""
    with standing_still(gateway):
        client = gateway.connect(greeting=False, source=source, early=header + octets)
    assert client.read_reply() == EARLY_TALKER
    assert client.is_closed()
    assert gateway.connect().ask("NOOP") == OK


def test_who_waits_is_greeted_however_long_it_took_us(gateway):
    with standing_still(gateway):
        client = gateway.connect(greeting=False)
    assert client.read_reply() == GREETING
    assert client.ask("NOOP") == OK
