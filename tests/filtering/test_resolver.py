"""The resolver against real name servers on loopback: what it believes, and whom it asks."""

from __future__ import annotations

import asyncio

import dns.message
import dns.reversename
import dns.rrset
import pytest

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.dns_client import MAX_RECORDS, NoAnswerError, _read, list_system_servers
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Answer, Resolver
from tests.dns_server import DnsServer, Script
from tests.filtering.look_ups import NONE, OK, SOA, UNKNOWN, Clock, get_status, look_at_many, run

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


# Lies


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
