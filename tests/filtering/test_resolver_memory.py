"""What the resolver keeps, and for how long, against a real name server on loopback."""

from __future__ import annotations

import tracemalloc

import pytest

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence import resolver as resolving
from filtering.evidence.breaker import MAX_PARTIES
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Answer, Resolver
from tests.dns_server import DnsServer
from tests.filtering.look_ups import NONE, OK, SOA, UNKNOWN, Clock, get_status, run


def test_answers_are_kept(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, _: Clock) -> dict[str, int]:
        for _ in range(3):
            assert await get_status(resolver) is OK
        return dict(resolver.counts)

    assert run(server, story) == {"ok": 1}
    assert len(server.asked) == 2


@pytest.mark.parametrize(("ttl", "kept"), [(0, 5), (60, 60), (86_400, 86_400), (2_000_000_000, 86_400)])
def test_name_is_kept_by_its_ttl_within_bounds(server: DnsServer, ttl: int, kept: int) -> None:
    server.answer("host.test", "A", "192.0.2.7", ttl=ttl)

    async def story(resolver: Resolver, clock: Clock) -> list[bool]:
        answers = [await resolver.ask("host.test", "A")]
        clock.now += kept - 1
        answers.append(await resolver.ask("host.test", "A"))
        clock.now += 2
        answers.append(await resolver.ask("host.test", "A"))
        return [answer.is_new for answer in answers]

    assert run(server, story) == [True, False, True]


@pytest.mark.parametrize(("ttl", "minimum", "kept"), [(60, 99_999, 60), (99_999, 60, 60), (99_999, 99_999, 3600)])
def test_absence_is_kept_by_the_zone_and_for_an_hour_at_most(
    server: DnsServer, ttl: int, minimum: int, kept: int
) -> None:  # RFC 2308 5
    server.answer_reverse("192.0.2.1", authority=SOA.replace(" 60 IN", f" {ttl} IN").replace("4 60", f"4 {minimum}"))

    async def story(resolver: Resolver, clock: Clock) -> list[int]:
        found = []
        for seconds in (0, kept - 1, 2):
            clock.now += seconds
            await get_status(resolver)
            found.append(len(server.asked))
        return found

    assert run(server, story) == [1, 1, 2]


def test_absence_without_the_zones_soa_is_hardly_kept(server: DnsServer) -> None:  # RFC 2308 5
    """So whom a resolver has lied about is let in soon after it has stopped."""

    async def story(resolver: Resolver, clock: Clock) -> list[PtrStatus]:
        found = [await get_status(resolver)]
        server.add("192.0.2.1", "mail.example.test")
        clock.now += 6
        return [*found, await get_status(resolver)]

    assert run(server, story) == [NONE, OK]


def test_failure_is_kept_for_thirty_seconds(server: DnsServer) -> None:
    async def story(resolver: Resolver, clock: Clock) -> list[PtrStatus]:
        server.answer_reverse("192.0.2.1", rcode="SERVFAIL")
        found = [await get_status(resolver)]
        server.add("192.0.2.1", "mail.example.test")
        clock.now += 29
        found.append(await get_status(resolver))
        clock.now += 2
        return [*found, await get_status(resolver)]

    assert run(server, story) == [UNKNOWN, UNKNOWN, OK]


@pytest.mark.parametrize("illness", ["SERVFAIL", "REFUSED", "DROP", "GARBAGE"])
def test_stale_name_is_used_for_a_day_while_the_resolver_is_down(server: DnsServer, illness: str) -> None:  # RFC 8767
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, clock: Clock) -> list[PtrStatus]:
        found = [await get_status(resolver)]
        server.everything = illness
        for seconds in (61, 86_300, 200):
            clock.now += seconds
            found.append(await get_status(resolver))
        return found

    assert run(server, story, deadline=0.4) == [OK, OK, OK, UNKNOWN]


def test_stale_name_is_given_before_the_deadline(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "STALE_WAIT_SECONDS", 0.05)
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, clock: Clock) -> PtrEvidence:
        await get_status(resolver)
        server.everything = "DROP"
        clock.now += 61
        return await look_up_ptr("192.0.2.1", resolver)

    found = run(server, story, deadline=5.0)

    assert isinstance(found, PtrEvidence)
    assert (found.status, found.detail) == (OK, "stale")
    assert found.milliseconds < 2000


def test_fresh_absence_replaces_a_stale_name(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, clock: Clock) -> list[PtrStatus]:
        found = [await get_status(resolver)]
        server.scripts.pop(("1.2.0.192.in-addr.arpa", "PTR"))
        clock.now += 61
        found.append(await get_status(resolver))
        server.everything = "SERVFAIL"
        clock.now += 3601
        return [*found, await get_status(resolver)]

    assert run(server, story) == [OK, NONE, UNKNOWN]


def test_stale_absence_refuses_nobody(server: DnsServer) -> None:
    async def story(resolver: Resolver, clock: Clock) -> list[PtrStatus]:
        found = [await get_status(resolver)]
        server.everything = "SERVFAIL"
        clock.now += 3601
        return [*found, await get_status(resolver)]

    assert run(server, story) == [NONE, UNKNOWN]


def test_stale_address_confirms_a_name_and_never_denies_it(server: DnsServer) -> None:
    server.answer_reverse("192.0.2.1", "mail.example.test.", ttl=5)
    server.answer_reverse("192.0.2.2", "mail.example.test.", ttl=9999)
    server.answer("mail.example.test", "A", "192.0.2.1", ttl=5)

    async def story(resolver: Resolver, clock: Clock) -> list[PtrStatus]:
        found = [await get_status(resolver, "192.0.2.1"), await get_status(resolver, "192.0.2.2")]
        server.everything = "SERVFAIL"
        clock.now += 31
        return [*found, await get_status(resolver, "192.0.2.1"), await get_status(resolver, "192.0.2.2")]

    assert run(server, story) == [OK, PtrStatus.MISMATCH, OK, UNKNOWN]


# R13
def test_ten_thousand_addresses_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "MAX_CACHE_OCTETS", 4_194_304)
    records = tuple(f"host-{number}.example.test." for number in range(3))
    resolver = Resolver([("127.0.0.1", 1)])
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(10_000):
            name = f"{number % 256}.{number // 256}.18.198.in-addr.arpa"
            resolver._keep((name, "PTR"), Answer(tuple(f"{number}-{record}" for record in records), seconds=3600))
            resolver.breaker.record(f"198.18.{number}.0/24", failed=number % 50 == 0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert 1000 < len(resolver.cache) < 10_000
    assert resolver.cache.octets <= resolving.MAX_CACHE_OCTETS
    assert used < resolving.MAX_CACHE_OCTETS + MAX_PARTIES * 400
