"""When the resolver's failures turn the rule off, and on again: against real name servers on loopback."""

from __future__ import annotations

import asyncio
import logging

import dns.message
import dns.reversename
import dns.rrset
import pytest

from filtering.evidence import PtrStatus
from filtering.evidence import resolver as resolving
from filtering.evidence.breaker import ENOUGH, WINDOW_SECONDS
from filtering.evidence.resolver import Resolver
from tests.dns_server import DnsServer
from tests.filtering.look_ups import (
    NONE,
    OK,
    UNKNOWN,
    Clock,
    get_status,
    list_addresses,
    list_alarms,
    look_at_many,
    run,
)


def test_clients_that_find_no_place_are_an_alarm(
    server: DnsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resolving, "MAX_QUESTIONS", 1)

    async def story(resolver: Resolver, clock: Clock) -> tuple[bool, bool, bool]:
        server.everything = "DROP"
        await look_at_many(resolver, ENOUGH + 1)
        await asyncio.gather(*resolver._asking.values())
        server.everything = ""
        is_crowded = resolver.crowding.is_open
        clock.now += WINDOW_SECONDS + 1
        assert await get_status(resolver) is NONE
        return is_crowded, resolver.crowding.is_open, resolver.breaker.is_open

    assert run(server, story, deadline=0.4) == (True, False, False)
    alarms = [record.message.split()[0] for record in caplog.records if "rule=reverse_dns" in record.message]
    assert alarms == ["look_ups_crowded", "look_ups_free"]


def test_rule_is_off_while_look_ups_fail_and_on_within_a_minute_after(
    server: DnsServer, caplog: pytest.LogCaptureFixture
) -> None:  # R04 R12
    async def story(resolver: Resolver, clock: Clock) -> list[object]:
        found: list[object] = [await get_status(resolver, "203.0.113.1")]
        server.everything = "SERVFAIL"
        await look_at_many(resolver, ENOUGH)
        found.append(resolver.breaker.is_open)
        server.everything = ""
        found.append(await get_status(resolver, "203.0.113.2"))
        found.append(await get_status(resolver, "203.0.113.1"))  # from memory: not counted as absent either
        clock.now += 59
        return [*found, resolver.breaker.is_open, await get_status(resolver, "203.0.113.3")]

    assert run(server, story) == [NONE, True, UNKNOWN, UNKNOWN, False, NONE]
    assert list_alarms(caplog) == ["rule_off", "rule_on"]
    assert [record.levelno for record in caplog.records if "rule_off" in record.message] == [logging.ERROR]


@pytest.mark.parametrize("illness", ["DROP", "SERVFAIL", "NXDOMAIN", "gone"])
def test_death_is_noticed_and_its_end_although_nobody_asks(  # R12
    server: DnsServer, illness: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resolving, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(resolving, "DEAD_SECONDS", 0.2)
    assert (10 + 5) * 2 + 20 < 120  # what these are otherwise, with the deadline: the alarm within two minutes

    async def wait_for(resolver: Resolver, *, is_open: bool) -> None:
        while resolver.breaker.is_open is not is_open:  # noqa: ASYNC110 - as others read it
            await asyncio.sleep(0.02)

    async def story() -> None:
        resolver = Resolver([server.address], deadline=0.2)
        watching = asyncio.ensure_future(resolver.watch())
        await asyncio.sleep(0.3)
        assert not resolver.breaker.is_open
        server.everything = "DROP" if illness == "gone" else illness
        if illness == "gone":
            resolver._client.servers = (("127.0.0.1", 1),)
        async with asyncio.timeout(10):
            await wait_for(resolver, is_open=True)
            resolver._client.servers = (server.address,)
            server.everything = ""
            await wait_for(resolver, is_open=False)
        watching.cancel()

    asyncio.run(story())

    assert list_alarms(caplog) == ["rule_off", "rule_on"]
    assert "cause=dead" in caplog.text


def test_resolver_that_answers_is_not_asked_for_signs_of_life(server: DnsServer) -> None:
    async def story(resolver: Resolver, _: Clock) -> None:
        for last in range(20):
            server.add(f"192.0.2.{last}", "mail.example.test")
            assert await get_status(resolver, f"192.0.2.{last}") is not NONE

    run(server, story)

    assert server.controls == 0


def test_one_client_or_network_with_broken_zones_turns_nothing_off(server: DnsServer) -> None:
    for last in range(60):
        server.answer_reverse(f"192.0.2.{last}", rcode="SERVFAIL")
        server.answer_reverse(f"2001:db8:1:{last}::1", rcode="SERVFAIL")

    async def story(resolver: Resolver, clock: Clock) -> bool:
        await look_at_many(resolver, ENOUGH)
        for _ in range(3):
            for last in range(60):
                await get_status(resolver, f"192.0.2.{last}")
                await get_status(resolver, f"2001:db8:1:{last}::1")
            clock.now += 31
            await look_at_many(resolver, ENOUGH)
        return resolver.breaker.is_open

    assert run(server, story) is False


def test_forward_zones_of_strangers_turn_nothing_off(server: DnsServer) -> None:
    for number, ip in enumerate(list_addresses(ENOUGH)):
        server.answer_reverse(ip, f"host{number}.ill.test.")
        server.answer(f"host{number}.ill.test", "A", rcode="SERVFAIL")

    async def story(resolver: Resolver, _: Clock) -> tuple[set[PtrStatus], bool]:
        return await look_at_many(resolver, ENOUGH), resolver.breaker.is_open

    assert run(server, story) == ({UNKNOWN}, False)


def test_ipv6_networks_of_one_holder_are_one_party(server: DnsServer) -> None:
    for number in range(60):
        server.answer_reverse(f"2001:db8:{number:x}::1", rcode="SERVFAIL")

    async def story(resolver: Resolver, _: Clock) -> bool:
        await look_at_many(resolver, ENOUGH)
        for number in range(60):
            assert await get_status(resolver, f"2001:db8:{number:x}::1") is UNKNOWN
        return resolver.breaker.is_open

    assert run(server, story) is False


def test_questions_that_the_dead_resolver_was_asked_do_not_turn_the_rule_off_again(server: DnsServer) -> None:
    silent = list_addresses(ENOUGH)
    for ip in silent:
        server.answer_reverse(ip, rcode="DROP")
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, clock: Clock) -> list[object]:
        resolver.breaker.record_death("seconds=20")
        asking = asyncio.gather(
            *(resolver.ask(dns.reversename.from_address(ip).to_text(), "PTR", client=ip) for ip in silent)
        )
        await asyncio.sleep(0.1)
        clock.now += 1
        found: list[object] = [await get_status(resolver), resolver.breaker.is_open]
        return [*found, {answer.is_known for answer in await asking}, resolver.breaker.is_open]

    assert run(server, story) == [OK, False, {False}, False]
