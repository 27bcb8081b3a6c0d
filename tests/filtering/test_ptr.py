"""Reverse DNS against a real name server on loopback."""

from __future__ import annotations

import asyncio

import pytest

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import DEADLINE_SECONDS, Resolver
from tests.dns_server import DnsServer

SOA = "2.0.192.in-addr.arpa. 60 IN SOA ns.example.test. root.example.test. 1 2 3 4 60"


def look_up(server: DnsServer, *ips: str, **options: object) -> list[PtrEvidence]:
    async def run() -> list[PtrEvidence]:
        resolver = Resolver([server.address], **{"deadline": 1.0, **options})  # type: ignore[arg-type]
        return [await look_up_ptr(ip, resolver) for ip in ips]

    return asyncio.run(run())


# R01
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


# R02
def test_nxdomain_is_no_name(server: DnsServer) -> None:
    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.detail) == (PtrStatus.NONE, "NXDOMAIN")


# R03
def test_empty_answer_is_no_name(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", authority=SOA)

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.NONE


# R04 R05 R06; a resolver that finds an answer bogus (DNSSEC) says SERVFAIL
@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR", "DROP", "GARBAGE", "TRUNCATED"])
def test_illness_of_a_name_server_is_unknown(server: DnsServer, rcode: str) -> None:
    server.answer_reverse("192.0.2.1", rcode=rcode)

    (found,) = look_up(server, "192.0.2.1", deadline=0.4)

    assert found.status is PtrStatus.UNKNOWN
    assert found.detail


# R04
def test_ten_minutes_of_illness_refuse_nobody_and_are_over_within_a_minute(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")
    now = [1000.0]

    async def run() -> list[set[PtrStatus]]:
        resolver = Resolver([server.address], deadline=1.0, clock=lambda: now[0])

        async def look(ip: str) -> PtrStatus:
            return (await look_up_ptr(ip, resolver)).status

        found = set()
        server.everything = "SERVFAIL"
        for _ in range(30):
            found |= {await look("192.0.2.1"), await look("192.0.2.2")}
            now[0] += 20
        server.everything = ""
        now[0] += 31
        return [found, {await look("192.0.2.1")}, {await look("192.0.2.2")}]

    assert asyncio.run(run()) == [{PtrStatus.UNKNOWN}, {PtrStatus.OK}, {PtrStatus.NONE}]


# R05
def test_silence_costs_no_more_than_the_deadline(server: DnsServer) -> None:
    server.everything = "DROP"

    async def run() -> PtrEvidence:
        async with asyncio.timeout(30):
            return await look_up_ptr("192.0.2.1", Resolver([server.address], deadline=0.4))

    found = asyncio.run(run())

    assert (found.status, found.detail) == (PtrStatus.UNKNOWN, "timeout")
    assert found.milliseconds >= 390
    assert DEADLINE_SECONDS <= 10


def test_while_the_rule_is_off_nobody_waits_long_and_a_late_answer_is_kept(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filtering.evidence.ptr.OFF_SECONDS", 0.2)
    server.add("192.0.2.1", "mail.example.test")
    server.answer_reverse("192.0.2.1", "mail.example.test.", delay=0.8)

    async def run() -> list[PtrStatus]:
        resolver = Resolver([server.address], deadline=5.0)
        resolver.breaker.record_death("seconds=20")
        first = await look_up_ptr("192.0.2.1", resolver)
        while resolver.breaker.is_open:  # noqa: ASYNC110 - the name, when it comes, is a sign of life
            await asyncio.sleep(0.05)
        return [first.status, (await look_up_ptr("192.0.2.1", resolver)).status]

    assert asyncio.run(run()) == [PtrStatus.UNKNOWN, PtrStatus.OK]
    assert len(server.asked) == 2


# R06
def test_truncated_answer_is_whole_over_tcp(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")
    server.answer_reverse("192.0.2.1", "mail.example.test.", rcode="TRUNCATED_UDP")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.OK


@pytest.mark.parametrize(("delay", "status"), [(0.5, PtrStatus.OK), (1.5, PtrStatus.UNKNOWN)])
def test_late_answer_counts_within_the_deadline(server: DnsServer, delay: float, status: PtrStatus) -> None:
    server.add("192.0.2.1", "mail.example.test")
    server.answer_reverse("192.0.2.1", "mail.example.test.", delay=delay)

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is status


def test_late_absence_is_unknown(server: DnsServer) -> None:
    server.delay = 1.2

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.UNKNOWN


# R06
def test_referral_to_nowhere_is_unknown(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", authority="2.0.192.in-addr.arpa. 60 IN NS ns.example.test.")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.detail) == (PtrStatus.UNKNOWN, "lame delegation")


def test_no_server_at_all_is_unknown() -> None:
    async def run() -> PtrEvidence:
        return await look_up_ptr("192.0.2.1", Resolver([("127.0.0.1", 1)], deadline=0.4))

    assert asyncio.run(run()).status is PtrStatus.UNKNOWN


# R07
def test_name_with_another_address_is_a_mismatch(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", "mx.bank.test.")
    server.answer("mx.bank.test", "A", "198.51.100.9")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.name) == (PtrStatus.MISMATCH, "mx.bank.test")


# R07
def test_name_without_address_is_a_mismatch(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", "gone.example.test.")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.MISMATCH


def test_name_whose_address_nobody_knows_is_unknown(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", "ill.example.test.")
    server.answer("ill.example.test", "A", rcode="SERVFAIL")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.UNKNOWN


# R08
def test_second_of_two_names_is_enough(server: DnsServer) -> None:
    server.add("192.0.2.1", "right.example.test")
    server.answer_reverse("192.0.2.1", "wrong.example.test.", "right.example.test.")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.name) == (PtrStatus.OK, "right.example.test")


# R09
def test_of_a_hundred_names_ten_are_asked(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", *(f"h{number}.example.test." for number in range(100)))

    (found,) = look_up(server, "192.0.2.1", deadline=3.0)

    assert found.status is PtrStatus.MISMATCH
    assert sum(kind == "A" for _, kind in server.asked) == 10


# R09
def test_alias_is_followed_where_the_server_gives_both(server: DnsServer) -> None:
    target = "1.0-25.2.0.192.in-addr.arpa."
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", target)
    server.answer("1.2.0.192.in-addr.arpa", "PTR", "mail.example.test.", owner=target)
    server.answer("mail.example.test", "A", "192.0.2.1")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.OK
    assert [kind for _, kind in server.asked] == ["PTR", "A"]


# R09
def test_alias_to_nowhere_is_no_name(server: DnsServer) -> None:
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", "1.0-25.2.0.192.in-addr.arpa.")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.detail) == (PtrStatus.NONE, "NXDOMAIN")


# R09
def test_chain_of_aliases_ends(server: DnsServer) -> None:
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", "a0.test.")
    for number in range(30):
        server.answer(f"a{number}.test", "CNAME", f"a{number + 1}.test.")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.detail) == (PtrStatus.UNKNOWN, "too many aliases")


# R09
def test_alias_of_rfc_2317_is_followed(server: DnsServer) -> None:
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", "1.0-25.2.0.192.in-addr.arpa.")
    server.answer("1.0-25.2.0.192.in-addr.arpa", "PTR", "mail.example.test.")
    server.answer("mail.example.test", "A", "192.0.2.1")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.OK


def test_alias_to_itself_ends(server: DnsServer) -> None:
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", "1.2.0.192.in-addr.arpa.")

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.UNKNOWN


# R10
def test_ipv6_is_asked_by_nibbles_and_confirmed_by_aaaa(server: DnsServer) -> None:
    server.add("2001:db8::25", "mail6.example.test")

    found, other = look_up(server, "2001:DB8:0::25", "2001:db8::26")

    assert (found.status, other.status) == (PtrStatus.OK, PtrStatus.NONE)
    nibbles = "5.2." + "0." * 22 + "8.b.d.0.1.0.0.2.ip6.arpa"
    assert server.asked[:2] == [(nibbles, "PTR"), ("mail6.example.test", "AAAA")]


# R10
def test_v4_mapped_address_is_the_v4_address(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")

    (found,) = look_up(server, "::ffff:192.0.2.1")

    assert found.status is PtrStatus.OK
    assert server.asked == [("1.2.0.192.in-addr.arpa", "PTR"), ("mail.example.test", "A")]


LABEL = "x" * 63


# R11
@pytest.mark.parametrize(
    "name",
    ["localhost.", r"<script>alert\(1\)</script>.test.", r"a\000b.test.", "192.0.2.1.", ".", "%s%n%00.test."]
    + [
        r"a\013\010b.test.",
        r"a\046b.test.",
        f"{LABEL}.{LABEL}.{LABEL}.{'<' * 61}.",
        f"{LABEL}.-.test.",
        r"a\032b.test.",
    ],
)
def test_names_that_are_none_are_malformed_and_safe(server: DnsServer, name: str) -> None:
    server.answer_reverse("192.0.2.1", name)

    (found,) = look_up(server, "192.0.2.1")

    assert found.status is PtrStatus.MALFORMED
    assert found.name.isprintable()
    assert found.name.isascii()
    assert len(found.name) <= 253


# R11
@pytest.mark.parametrize(
    "name", ["mx.lazaret.test", "localhost.localdomain", f"{LABEL}.{LABEL}.{LABEL}.{'x' * 56}.test"]
)
def test_claimed_names_are_never_trusted(server: DnsServer, name: str) -> None:
    server.answer_reverse("192.0.2.1", f"{name}.")
    server.answer(name, "A", "127.0.0.1", "198.51.100.25")

    (found,) = look_up(server, "192.0.2.1")

    assert (found.status, found.name) == (PtrStatus.MISMATCH, name)
