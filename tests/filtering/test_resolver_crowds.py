"""The resolver when many ask at once: each question once, and nobody delays the others."""

from __future__ import annotations

import asyncio

import pytest

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence import resolver as resolving
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver
from tests.dns_server import DnsServer
from tests.filtering.look_ups import NONE, OK, UNKNOWN, Clock, get_status, look_at_many, run


def test_many_who_want_the_same_address_ask_once(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, _: Clock) -> tuple[set[PtrStatus], dict[str, int]]:
        found = await asyncio.gather(*(get_status(resolver) for _ in range(20)))
        return set(found), dict(resolver.counts)

    assert run(server, story) == ({OK}, {"ok": 1})
    assert len(server.asked) == 2


def test_one_who_goes_away_does_not_spoil_it_for_others(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, _: Clock) -> PtrStatus:
        first = asyncio.ensure_future(get_status(resolver))
        second = asyncio.ensure_future(get_status(resolver))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert run(server, story) is OK


def test_questions_beyond_the_bound_wait_and_end_unknown_by_their_deadline(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "MAX_QUESTIONS", 3)

    async def story(resolver: Resolver, _: Clock) -> dict[str, int]:
        server.everything = "DROP"
        await asyncio.wait_for(look_at_many(resolver, 9), 5)
        return dict(resolver.counts)

    counts = run(server, story, deadline=0.4)

    assert isinstance(counts, dict)
    assert sum(counts.values()) == 9
    assert 3 <= len(set(server.asked)) < 9  # a place that was given back may be taken once more before the end


def test_places_are_given_back(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "MAX_QUESTIONS", 3)
    monkeypatch.setattr(resolving, "MAX_QUESTIONS_OF_ONE", 2)

    async def story(resolver: Resolver, _: Clock) -> set[PtrStatus]:
        return {*await asyncio.gather(*(get_status(resolver, f"192.0.2.{last}") for last in range(50)))}

    assert run(server, story, deadline=5.0) == {NONE}


def test_client_with_slow_zones_delays_nobody_else(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "MAX_QUESTIONS", 10)
    monkeypatch.setattr(resolving, "MAX_QUESTIONS_OF_ONE", 5)
    for last in range(100):
        server.answer_reverse(f"192.0.2.{last}", rcode="DROP")
    server.add("203.0.113.1", "mail.example.test")

    async def story(resolver: Resolver, _: Clock) -> PtrEvidence:
        slow = [asyncio.ensure_future(get_status(resolver, f"192.0.2.{last}")) for last in range(100)]
        await asyncio.sleep(0.1)
        other = await look_up_ptr("203.0.113.1", resolver)
        await asyncio.gather(*slow)
        return other

    found = run(server, story)

    assert isinstance(found, PtrEvidence)
    assert found.status is OK


def test_silent_zones_of_many_networks_delay_nobody_else(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the end networks found to be slow, twice as many as would fill all places, ask all at once."""
    monkeypatch.setattr(resolving, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr("filtering.evidence.ptr.OFF_SECONDS", 3.0)  # else the rule, when it is off, hurries them
    server.default = "DROP"
    for number in range(3):
        server.add(f"203.0.{number}.1", "mail.example.test", f"mx{number}.example.test")

    async def story(resolver: Resolver, _: Clock) -> list[PtrStatus]:
        found = []
        for wave, networks in enumerate([range(60), range(60, 120), range(120)]):
            ips = [f"198.18.{network}.{10 * wave + last}" for network in networks for last in range(10)]
            silent = [asyncio.ensure_future(get_status(resolver, ip)) for ip in ips]
            await asyncio.sleep(0.5)
            found.append(await get_status(resolver, f"203.0.{wave}.1"))
            assert not any(task.done() for task in silent)  # it waited for none of them
            assert set(await asyncio.gather(*silent)) == {UNKNOWN}
        return found

    assert run(server, story, deadline=3.0) == [OK] * 3


def test_of_the_names_of_one_client_two_are_asked_about_at_once(server: DnsServer) -> None:
    names = [f"h{number}.example.test" for number in range(10)]
    server.answer_reverse("192.0.2.1", *(f"{name}." for name in names))
    for name in names:
        server.answer(name, "A", "192.0.2.9", delay=0.05)

    async def story(resolver: Resolver, _: Clock) -> tuple[int, PtrStatus]:
        looking, most = asyncio.ensure_future(get_status(resolver)), 0
        while not looking.done():
            await asyncio.sleep(0)
            most = max(most, len(resolver._asking))
        return most, looking.result()

    assert run(server, story, deadline=5.0) == (2, PtrStatus.MISMATCH)
    assert len(server.asked) == 11


# R13
def test_thousands_of_addresses_are_looked_up(server: DnsServer) -> None:
    async def story(resolver: Resolver, _: Clock) -> tuple[int, int]:
        for first in range(8):
            ips = [f"198.18.{first}.{last}" for last in range(250)]
            await asyncio.gather(*(get_status(resolver, ip) for ip in ips))
        return resolver.counts["none"], len(resolver._asking)

    assert run(server, story, deadline=30.0) == (2000, 0)
