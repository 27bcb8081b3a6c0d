"""Reverse DNS against a real name server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver
from tests.dns_server import DnsServer

SOA = "2.0.192.in-addr.arpa. 60 IN SOA ns.example.test. root.example.test. 1 2 3 4 60"


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running


def look_up(server: DnsServer, *ips: str, **options: object) -> list[PtrEvidence]:
    async def run() -> list[PtrEvidence]:
        resolver = Resolver([server.address], **{"deadline": 1.0, **options})  # type: ignore[arg-type]
        return [await look_up_ptr(ip, resolver) for ip in ips]

    return asyncio.run(run())


def test_name_that_leads_back_is_ok(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.name) == (PtrStatus.OK, "mail.example.test")


@pytest.mark.parametrize("ip", ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_documentation_addresses_are_looked_up(server: DnsServer, ip: str) -> None:
    server.add(ip.removeprefix("::ffff:"), "host.example.test")

    (found,) = look_up(server, ip)

    assert found.status is PtrStatus.OK


@pytest.mark.parametrize(
    "ip",
    ["10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "100.64.0.1", "169.254.1.1", "0.0.0.0"]
    + ["::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "", "no address"],
)
def test_addresses_of_no_public_net_are_not_asked(server: DnsServer, ip: str) -> None:
    (found,) = look_up(server, ip)

    assert found.status is PtrStatus.SKIPPED
    assert server.asked == []


def test_own_relays_are_not_asked(server: DnsServer) -> None:
    (found,) = look_up(server, "192.0.2.9", relays=["192.0.2.8/29"])

    assert found.status is PtrStatus.SKIPPED


def test_nxdomain_is_no_name(server: DnsServer) -> None:
    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.detail) == (PtrStatus.NONE, "NXDOMAIN")


def test_empty_answer_is_no_name(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", authority=SOA)

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.NONE


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR", "DROP", "GARBAGE", "TRUNCATED"])
def test_illness_of_a_name_server_is_unknown(server: DnsServer, rcode: str) -> None:
    server.answer_reverse("192.0.2.1", rcode=rcode)

    (found,) = look_up(server, "192.0.2.1", deadline=0.4)

    assert found.status is PtrStatus.UNKNOWN
    assert found.detail


def test_referral_to_nowhere_is_unknown(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", authority="2.0.192.in-addr.arpa. 60 IN NS ns.example.test.")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.detail) == (PtrStatus.UNKNOWN, "lame delegation")


def test_no_server_at_all_is_unknown() -> None:
    async def run() -> PtrEvidence:
        return await look_up_ptr("192.0.2.1", Resolver([("127.0.0.1", 1)], deadline=0.4))

    assert asyncio.run(run()).status is PtrStatus.UNKNOWN


def test_name_with_another_address_is_a_mismatch(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", "mx.bank.test.")
    server.answer("mx.bank.test", "A", "198.51.100.9")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.name) == (PtrStatus.MISMATCH, "mx.bank.test")


def test_name_without_address_is_a_mismatch(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", "gone.example.test.")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.MISMATCH


def test_name_whose_address_nobody_knows_is_unknown(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", "ill.example.test.")
    server.answer("ill.example.test", "A", rcode="SERVFAIL")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.UNKNOWN


def test_second_of_two_names_is_enough(server: DnsServer) -> None:
    server.add("192.0.2.1", "right.example.test")
    server.answer_reverse("192.0.2.1", "wrong.example.test.", "right.example.test.")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.name) == (PtrStatus.OK, "right.example.test")


def test_of_a_hundred_names_ten_are_asked(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", *(f"h{number}.example.test." for number in range(100)))

    (found,) = look_up(server, "192.0.2.1", deadline=3.0)

    assert found.status is PtrStatus.MISMATCH
    assert sum(kind == "A" for _, kind in server.asked) == 10


def test_alias_of_rfc_2317_is_followed(server: DnsServer) -> None:
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", "1.0-25.2.0.192.in-addr.arpa.")
    server.answer("1.0-25.2.0.192.in-addr.arpa", "PTR", "mail.example.test.")
    server.answer("mail.example.test", "A", "192.0.2.1")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.OK


def test_alias_to_itself_ends(server: DnsServer) -> None:
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", "1.2.0.192.in-addr.arpa.")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status in {PtrStatus.UNKNOWN, PtrStatus.NONE}


@pytest.mark.parametrize(
    "name", ["localhost.", r"<script>alert\(1\)</script>.test.", r"a\000b.test.", "192.0.2.1.", "."]
)
def test_names_that_are_none_are_malformed_and_safe(server: DnsServer, name: str) -> None:
    server.answer_reverse("192.0.2.1", name)

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.MALFORMED
    assert "\0" not in found.name
