"""The resolver against real name servers on loopback: what it keeps, what it believes, and when it raises the alarm."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator

import dns.message
import dns.reversename
import dns.rrset
import pytest

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence import resolver as resolving
from filtering.evidence.breaker import ENOUGH, FORGIVEN_SECONDS, MAX_PARTIES, WINDOW_SECONDS, WITNESSES, Breaker
from filtering.evidence.dns_client import MAX_RECORDS, NoAnswerError, _read, list_system_servers
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Answer, Resolver
from tests.dns_server import DnsServer, Script

SOA = "2.0.192.in-addr.arpa. 60 IN SOA ns.example.test. root.example.test. 1 2 3 4 60"
NONE, UNKNOWN, OK = PtrStatus.NONE, PtrStatus.UNKNOWN, PtrStatus.OK


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(server: DnsServer, story: Callable[[Resolver, Clock], Awaitable[object]], **options: object) -> object:
    """Let the story happen with a resolver that asks this server, and a clock that goes on when it is told to."""

    async def tell() -> object:
        clock = Clock()
        settings = {"deadline": 1.0, "clock": clock, **options}
        return await story(Resolver([server.address], **settings), clock)  # type: ignore[arg-type]

    return asyncio.run(tell())


async def get_status(resolver: Resolver, ip: str = "192.0.2.1") -> PtrStatus:
    return (await look_up_ptr(ip, resolver)).status


def list_addresses(number: int) -> list[str]:
    """So many addresses, each in a network of its own."""
    return [f"198.{18 + number // 256}.{number % 256}.1" for number in range(number)]


async def look_at_many(resolver: Resolver, number: int) -> set[PtrStatus]:
    return set(await asyncio.gather(*(get_status(resolver, ip) for ip in list_addresses(number))))


def list_alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message.split()[0] for record in caplog.records if record.message.startswith("rule_")]


# What is kept, and for how long


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


# Many at once


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


# R13
def test_thousands_of_addresses_are_looked_up(server: DnsServer) -> None:
    async def story(resolver: Resolver, _: Clock) -> tuple[int, int]:
        for first in range(8):
            ips = [f"198.18.{first}.{last}" for last in range(250)]
            await asyncio.gather(*(get_status(resolver, ip) for ip in ips))
        return resolver.counts["none"], len(resolver._asking)

    assert run(server, story, deadline=30.0) == (2000, 0)


# Whose answers are believed (RFC 5452)


@pytest.mark.parametrize("forged_by", ["id", "question", "source"])
def test_forged_answer_is_not_believed(server: DnsServer, forged_by: str) -> None:
    server.answer("host.test", "A", "192.0.2.7", delay=0.2, forged="192.0.2.66", forged_by=forged_by)

    async def story(resolver: Resolver, _: Clock) -> tuple[str, ...]:
        return (await resolver.ask("host.test", "A")).records

    assert run(server, story) == ("192.0.2.7",)


@pytest.mark.parametrize("forged_by", ["id", "question", "source"])
def test_forged_answer_alone_is_none(server: DnsServer, forged_by: str) -> None:
    server.answer("host.test", "A", rcode="DROP", forged="192.0.2.66", forged_by=forged_by)

    async def story(resolver: Resolver, _: Clock) -> Answer:
        return await resolver.ask("host.test", "A")

    found = run(server, story, deadline=0.5)

    assert isinstance(found, Answer)
    assert (found.records, found.is_known, found.detail) == ((), False, "timeout")


def test_numbers_and_ports_of_questions_are_drawn() -> None:
    seen: list[tuple[bytes, int]] = []

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            seen.append((data[:2], addr[1]))

    async def story() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Listener, local_addr=("127.0.0.1", 0))
        resolver = Resolver([transport.get_extra_info("sockname")], deadline=0.3)
        await asyncio.gather(*(resolver.ask(f"h{number}.test", "A") for number in range(40)))
        transport.close()

    asyncio.run(story())

    ids, ports = [int.from_bytes(number, "big") for number, _ in seen], [port for _, port in seen]
    assert len(set(ids)) > 35
    assert len(set(ports)) > 35
    steps = {later - earlier for earlier, later in zip(ports, ports[1:], strict=False)}
    assert len(steps) > 10


def test_answer_that_is_cut_short_is_asked_for_over_tcp(server: DnsServer) -> None:
    server.answer("host.test", "A", "192.0.2.7", rcode="TRUNCATED_UDP")

    async def story(resolver: Resolver, _: Clock) -> tuple[str, ...]:
        return (await resolver.ask("host.test", "A")).records

    assert run(server, story) == ("192.0.2.7",)
    assert len(server.asked) == 2


def test_answer_that_is_whole_too_late_is_none(server: DnsServer) -> None:
    """Twice half of the time and more: the second question has what the first has left."""
    server.answer("host.test", "A", "192.0.2.7", rcode="TRUNCATED_UDP", delay=0.7)

    async def story(resolver: Resolver, _: Clock) -> Answer:
        return await resolver.ask("host.test", "A")

    found = run(server, story, deadline=1.0)
    assert isinstance(found, Answer)
    assert (found.is_known, found.detail) == (False, "truncated")


# R09
def test_of_a_large_answer_over_tcp_no_more_is_read_than_is_looked_at(server: DnsServer) -> None:
    names = [f"host-{number}.{'x' * 40}.example.test." for number in range(100)]
    server.answer_reverse("192.0.2.1", *names)

    async def story(resolver: Resolver, _: Clock) -> int:
        return len((await resolver.ask("1.2.0.192.in-addr.arpa", "PTR")).records)

    assert run(server, story, deadline=3.0) == MAX_RECORDS
    assert len(server.asked) == 2


def test_what_would_take_long_to_read_is_not_read() -> None:
    """A parse cannot be interrupted: thousands of records, of many labels each, would hold up everybody."""
    query = dns.message.make_query("host.test", "A")
    response = dns.message.make_response(query)
    owner = ".".join("x" * 120) + "."
    for section in (response.answer, response.authority):
        section.append(dns.rrset.from_text(owner, 60, "IN", "NS", *(f"n{n}.{owner}" for n in range(1000))))
    assert [len(records) for records in _read(response.to_wire()).answer] == [MAX_RECORDS]
    response.answer.clear()
    with pytest.raises(NoAnswerError):
        _read(response.to_wire())
    with pytest.raises(NoAnswerError):
        _read(query.to_wire()[:4] + b"\xff\xff" + query.to_wire()[6:])


# Several servers


@pytest.mark.parametrize("illness", ["SERVFAIL", "REFUSED", "DROP", "GARBAGE", "gone"])
def test_next_server_is_asked_where_one_fails(server: DnsServer, illness: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filtering.evidence.dns_client.SERVER_SECONDS", 0.2)
    server.add("192.0.2.1", "mail.example.test")
    server.add("192.0.2.2", "mail2.example.test")

    async def story(ill: tuple[str, int]) -> list[PtrEvidence]:
        resolver = Resolver([ill, server.address], deadline=3.0)
        return [await look_up_ptr("192.0.2.1", resolver), await look_up_ptr("192.0.2.2", resolver)]

    with DnsServer() as other:
        other.everything = illness
        found = asyncio.run(story(("127.0.0.1", 1) if illness == "gone" else other.address))
        assert [evidence.status for evidence in found] == [OK, OK]
        assert len(other.asked) <= 1  # then it is asked last


def test_absence_said_by_one_server_is_not_vouched_for_by_another(server: DnsServer) -> None:
    async def story(liar: tuple[str, int]) -> list[PtrStatus]:
        resolver = Resolver([liar, server.address], deadline=1.0)
        return [await get_status(resolver, f"192.0.2.{last}") for last in range(3)]

    with DnsServer() as other:
        other.everything = "NXDOMAIN"
        assert asyncio.run(story(other.address)) == [UNKNOWN] * 3


def test_system_servers_are_asked_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dns.resolver.Resolver.read_resolv_conf", lambda self, _: self.__setattr__("nameservers", ["::1"])
    )

    assert list_system_servers() == [("::1", 53)]


def test_no_server_at_all_is_said_and_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("filtering.evidence.resolver.list_system_servers", list)

    async def story() -> PtrEvidence:
        return await look_up_ptr("192.0.2.1", Resolver())

    assert asyncio.run(story()).status is UNKNOWN
    assert "resolver_missing" in caplog.text


# The alarm


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


def test_lying_resolver_is_not_believed(server: DnsServer) -> None:  # R12: it says of everything that it is not there
    server.everything = "NXDOMAIN"

    async def story(resolver: Resolver, _: Clock) -> tuple[set[PtrStatus], dict[str, int]]:
        return await look_at_many(resolver, 20), dict(resolver.counts)

    assert run(server, story) == ({UNKNOWN}, {"unconfirmed_absence": 20})


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
@pytest.mark.parametrize(
    "beside",
    [
        pytest.param("4.3.2.1.in-addr.arpa. 60 IN PTR other.example.test.", id="another name"),
        pytest.param("1.2.0.192.in-addr.arpa. 60 IN A 192.0.2.1", id="another type"),
        pytest.param("1.2.0.192.in-addr.arpa. 60 CH PTR mail.example.test.", id="another class"),
    ],
)
def test_answer_to_something_else_is_no_absence(server: DnsServer, beside: str, rcode: str) -> None:
    server.answer_reverse("192.0.2.1", rcode=rcode, beside=beside, authority=SOA)

    async def story(resolver: Resolver, _: Clock) -> tuple[PtrStatus, dict[str, int]]:
        return await get_status(resolver), dict(resolver.counts)

    assert run(server, story) == (UNKNOWN, {"malformed_answer": 1})


@pytest.mark.parametrize("beside", ["", "2.0.192.in-addr.arpa. 60 IN DNAME zone.example.test."])
def test_absence_at_the_end_of_an_alias_is_one(server: DnsServer, beside: str) -> None:  # RFC 2317, RFC 6672
    server.answer("1.2.0.192.in-addr.arpa", "CNAME", "1.zone.example.test.")
    server.answer_reverse("192.0.2.1", rcode="NXDOMAIN", beside=beside, authority=SOA)

    async def story(resolver: Resolver, clock: Clock) -> list[object]:
        found: list[object] = [await get_status(resolver), len(server.asked)]
        for seconds in (59, 2):
            clock.now += seconds
            await get_status(resolver)
            found.append(len(server.asked))
        return found

    assert run(server, story) == [NONE, 1, 1, 2]  # by the SOA record


def test_resolver_that_begins_to_lie_is_believed_for_a_second_at_most(server: DnsServer) -> None:
    server.add("192.0.2.1", "mail.example.test")

    async def story(resolver: Resolver, clock: Clock) -> list[PtrStatus]:
        found = [await get_status(resolver, "192.0.2.1")]
        server.everything = "NXDOMAIN"
        clock.now += 1.1
        return [*found, await get_status(resolver, "192.0.2.2")]

    assert run(server, story) == [OK, UNKNOWN]


def test_empty_reverse_tree_is_not_vouched_for_by_forward_names(server: DnsServer) -> None:
    server.scripts["in-addr.arpa", "SOA"] = Script(rcode="NXDOMAIN")
    server.answer("host.test", "A", "192.0.2.7")

    async def story(resolver: Resolver, _: Clock) -> PtrStatus:
        await resolver.ask("host.test", "A")
        return await get_status(resolver)

    assert run(server, story) is UNKNOWN


# Who can open it


def fill(breaker: Breaker, *, well: int, failed: int, name: str = "n") -> None:
    for number in range(well):
        breaker.record(f"well {number}", failed=False)
    for number in range(failed):
        breaker.record(f"{name} {number}", failed=True)


@pytest.mark.parametrize(
    ("well", "failed", "is_open"),
    [(38, 2, False), (37, 3, True), (950, 50, False), (949, 51, True), (0, 39, False), (0, 40, True)],
)
def test_more_than_a_twentieth_turns_the_rule_off(well: int, failed: int, *, is_open: bool) -> None:
    breaker = Breaker("reverse_dns", Clock())

    fill(breaker, well=well, failed=failed)

    assert breaker.is_open is is_open


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


def test_networks_known_to_be_broken_count_no_more_until_they_are_well() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=1000, failed=40)
    clock.now += WINDOW_SECONDS + 1
    fill(breaker, well=100, failed=40)
    assert not breaker.is_open

    fill(breaker, well=0, failed=3, name="well")
    fill(breaker, well=0, failed=3, name="new")
    assert breaker.is_open

    clock.now += FORGIVEN_SECONDS + 1
    for number in range(40):
        breaker.record(f"n {number}", failed=False)
    fill(breaker, well=0, failed=3)
    assert breaker.is_open


def simulate(breaker: Breaker, clock: Clock, networks: dict[str, int], well: int, seconds: int) -> list[int]:
    """In which seconds the rule is off, where these networks are broken and come every so many seconds."""
    off = []
    for second in range(seconds):
        clock.now += 1
        for number in range(well):
            if (second + number) % 31 == 0:
                breaker.record(f"well {number}", failed=False)
        for number, (name, interval) in enumerate(networks.items()):
            if (second + number) % interval == 0:
                breaker.record(name, failed=True)
        off += [second] if breaker.is_open else []
    return off


@pytest.mark.parametrize(
    ("well", "broken", "interval"),
    [(100, 6, 31), (100, 20, 31), (100, 30, 100), (41, 3, 31), (38, 12, 44), (30, 20, 1)],
)
def test_networks_broken_from_the_start_turn_the_rule_off_for_minutes_at_most(
    well: int, broken: int, interval: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)

    off = simulate(breaker, clock, {f"n {number}": interval for number in range(broken)}, well, 3600)

    assert max(off) < 240
    assert not breaker.is_open
    assert list_alarms(caplog) == ["rule_off", "rule_on"]


def test_networks_broken_on_purpose_do_not_hold_the_rule_off_on_a_quiet_night() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=ENOUGH, failed=3)
    assert breaker.is_open
    for number in range(200):
        clock.now += 15
        breaker.record(f"well {number % WITNESSES}", failed=False)
        breaker.record(f"n {number % 3}", failed=True)

    assert not breaker.is_open


def test_network_with_zones_well_and_ill_is_not_new_each_time() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=ENOUGH, failed=0)
    for _ in range(20):
        clock.now += 20
        fill(breaker, well=ENOUGH, failed=0)
        for number in range(3):
            breaker.record(f"n {number}", failed=False)
            breaker.record(f"n {number}", failed=True)

    assert not breaker.is_open


@pytest.mark.parametrize("succeeding", [0, WITNESSES - 1])
def test_resolver_that_fails_all_but_a_few_stays_ill(succeeding: int) -> None:
    """And what it said before it fell ill vouches for nobody."""
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=100, failed=0)
    for _ in range(120):
        clock.now += 1
        fill(breaker, well=succeeding, failed=0)
        fill(breaker, well=0, failed=60)
    assert breaker.is_open
    off = simulate(breaker, clock, {f"n {number}": 31 for number in range(60)}, 0, 3600)

    assert len(off) == 3600


def test_resolver_that_fails_whom_it_never_failed_before_turns_the_rule_off_again() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    simulate(breaker, clock, {f"n {number}": 31 for number in range(6)}, 100, 600)
    assert not breaker.is_open

    fill(breaker, well=0, failed=6, name="well")

    assert breaker.is_open


def test_ipv6_networks_of_one_holder_are_one_party(server: DnsServer) -> None:
    for number in range(60):
        server.answer_reverse(f"2001:db8:{number:x}::1", rcode="SERVFAIL")

    async def story(resolver: Resolver, _: Clock) -> bool:
        await look_at_many(resolver, ENOUGH)
        for number in range(60):
            assert await get_status(resolver, f"2001:db8:{number:x}::1") is UNKNOWN
        return resolver.breaker.is_open

    assert run(server, story) is False


def test_dead_resolver_stays_dead_however_often_the_same_networks_come() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=0, failed=ENOUGH)
    for _ in range(30):
        clock.now += 30
        fill(breaker, well=0, failed=ENOUGH)
        assert breaker.is_open


def test_what_failed_while_the_resolver_was_dead_does_not_keep_the_rule_off() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    breaker.record_death("seconds=20")
    fill(breaker, well=0, failed=ENOUGH)
    clock.now += 1
    breaker.record_life()
    assert not breaker.is_open
    fill(breaker, well=0, failed=ENOUGH)  # it was alive, and is ill
    assert breaker.is_open


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


def test_failures_of_one_network_do_not_keep_the_rule_off() -> None:
    clock = Clock()
    breaker = Breaker("reverse_dns", clock)
    fill(breaker, well=0, failed=ENOUGH)
    clock.now += WINDOW_SECONDS + 1
    breaker.record("n 0", failed=True)

    assert not breaker.is_open


def test_parties_are_bounded() -> None:
    breaker = Breaker("reverse_dns", Clock())

    fill(breaker, well=0, failed=3 * MAX_PARTIES)

    assert len(breaker._outcomes) <= MAX_PARTIES
    assert len(breaker._failing) <= MAX_PARTIES
