"""The one way to ask DNS: answers kept by their TTL, look-ups alike joined, everything bounded, illness noticed.

A promise: nobody is refused for a name that an ill or lying resolver did not find. An absence counts until its TTL ends
and never longer, and only from a server that within the last second has given a name that is certain to be there; else
nobody knows. A name that was there may be used for a day after its TTL while it cannot be asked for again (RFC 8767).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

import dns.exception
import dns.name
import dns.rcode
import dns.rdatatype
from dns.message import ChainingResult, QueryMessage

from filtering.evidence.breaker import Breaker
from filtering.evidence.dns_cache import TtlCache
from filtering.evidence.dns_client import DnsClient, NoAnswerError, Server, list_system_servers, make_question
from filtering.evidence.dns_wire import PlainAnswer

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 5.0  # for a look-up with all its questions
MAX_ALIASES = 3  # CNAMEs (RFC 2317) followed where the server left that to us
MIN_TTL_SECONDS = 5.0  # also where the zone says 0
MAX_TTL_SECONDS = 86_400.0
MAX_ABSENT_SECONDS = 3600.0  # RFC 2308 5 allows three hours
FAILURE_SECONDS = 30.0
STALE_SECONDS = 86_400.0  # RFC 8767 5: one to three days
STALE_WAIT_SECONDS = 1.8  # RFC 8767 5: then the old answer is given
MAX_QUESTIONS = 500  # on their way; each has a socket
MAX_QUESTIONS_OF_ONE = 8  # client
SLOW_SECONDS = 1.0  # without an answer, and the client's network is slow
SLOW_MEMORY_SECONDS = 600.0
MAX_SLOW = 10_000
MAX_CACHE_OCTETS = 33_554_432
ENTRY_OCTETS = 500  # of an entry in memory, besides its text; measured
RECORD_OCTETS = 60

PARTY_BITS = 32  # of IPv6: what one holder of addresses is given; networks of /48 he has as many as he likes

CONTROL = make_question("in-addr.arpa.", dns.rdatatype.SOA)  # has a record wherever DNS works
CONTROL_SECONDS = 1.0  # that a server is trusted after it has given a name
WATCH_SECONDS = 10.0  # between looks after the servers
DEAD_SECONDS = 20.0  # without any name, and the servers are dead

Question = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """Records as text, or none there; where not even that `is_known`, `detail` says why."""

    records: tuple[str, ...] = ()
    detail: str = ""
    is_known: bool = True
    is_new: bool = True  # from a server, and not from memory
    is_stale: bool = False  # its TTL has ended, and it could not be asked for again
    seconds: float = 0.0  # that it is good for


def _fail(detail: str) -> Answer:
    return Answer(detail=detail, is_known=False, seconds=FAILURE_SECONDS)


def _is_chain(said: QueryMessage, found: ChainingResult) -> bool:
    """Whether the answer holds nothing but the aliases that were followed: what is not about the question is a fault of
    whoever answers, and no sign that there is no such record (RFC 6672: a DNAME stands beside the alias it makes).
    """
    return all(records in found.cnames or records.rdtype == dns.rdatatype.DNAME for records in said.answer)


def get_party(client: str) -> str:
    """Who is answerable for a client's network such as 192.0.2.0/24 or 2001:db8:1::/48."""
    if ":" not in client:
        return client
    return str(ipaddress.ip_network(client).supernet(new_prefix=PARTY_BITS))


class Resolver:
    """Asks DNS within a deadline and keeps the answers. One for a process and event loop.

    `addresses` are servers as (ip, port), asked in turn; none means the system's. `relays` are networks that are never
    asked about. `counts` says how the look-ups of clients ended; `breaker.is_open` that rules about absence are off,
    `crowding.is_open` that too many networks' questions found no place.
    """

    def __init__(
        self,
        addresses: Sequence[Server] = (),
        *,
        deadline: float = DEADLINE_SECONDS,
        relays: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline = deadline
        self.relays = tuple(ipaddress.ip_network(net, strict=False) for net in relays)
        self.counts: Counter[str] = Counter()
        self.breaker = Breaker("reverse_dns", clock)
        self.crowding = Breaker("reverse_dns", clock, ("look_ups_crowded", "look_ups_free"))
        self.cache: TtlCache[Answer] = TtlCache(MAX_CACHE_OCTETS, clock)
        self._client = DnsClient(addresses or list_system_servers())
        self._clock = clock
        self._asking: dict[Question, asyncio.Task[Answer]] = {}
        self._slots = _Slots(clock)
        self._checking: dict[Server, asyncio.Task[bool]] = {}
        self._proven: dict[Server, float] = {}
        self._last_proof = clock()
        if not self._client.servers:
            log.error("resolver_missing hint=LAZARET_DNS")

    async def ask(self, name: str, kind: str, *, client: str = "") -> Answer:
        """The answer to a question such as ("2.0.192.in-addr.arpa", "PTR"), within the deadline. Never raises.

        `client` is the network for whose sake it is asked: its questions cannot keep others' from being asked.
        """
        question = (name, kind)
        if kept := self.cache.find(question):
            return kept
        asking = self._asking.get(question)
        is_first = asking is None
        if asking is None:
            asking = self._asking[question] = asyncio.ensure_future(self._ask(question, client))
            asking.add_done_callback(lambda _: self._asking.pop(question))
        if stale := self._find_stale(question):
            await asyncio.wait({asking}, timeout=min(STALE_WAIT_SECONDS, self.deadline / 3))
            return asking.result() if asking.done() else stale
        answer = await asyncio.shield(asking)
        return answer if is_first else replace(answer, is_new=False)

    def _find_stale(self, question: Question) -> Answer | None:
        stale = self.cache.find_stale(question)
        return replace(stale[0], is_stale=True, is_new=True, seconds=FAILURE_SECONDS) if stale else None

    async def _ask(self, question: Question, client: str) -> Answer:
        ends, asked_at = time.monotonic() + self.deadline, self._clock()
        party = get_party(client) if client else ""
        try:
            async with self._slots.take(client, party, self.deadline):
                if client:
                    self.crowding.record(party, failed=False)
                answer = await self._resolve(question, ends)
        except TimeoutError:
            if client:
                self.crowding.record(party, failed=True)
            return _fail("busy")
        except Exception as error:  # noqa: BLE001 whatever a stranger's name server sends, the session goes on
            log.error("dns_question_failed error=%s", type(error).__name__)
            answer = _fail(type(error).__name__)
        if client and question[1] == "PTR":
            self.breaker.record(party, failed=not answer.is_known, asked_at=asked_at)
        if not answer.is_known and (stale := self._find_stale(question)):
            answer = stale
        self._keep(question, answer)
        return answer

    def _keep(self, question: Question, answer: Answer) -> None:
        octets = ENTRY_OCTETS + len(question[0]) + sum(RECORD_OCTETS + len(record) for record in answer.records)
        stale_seconds = STALE_SECONDS if answer.records else 0.0
        if answer.is_stale and (old := self.cache.find_stale(question)):
            stale_seconds = max(old[1] - FAILURE_SECONDS, 0.0)
        kept = replace(answer, is_new=False)
        self.cache.keep(question, kept, octets=octets, seconds=answer.seconds, stale_seconds=stale_seconds)

    async def _resolve(self, question: Question, ends: float) -> Answer:
        name: str | dns.name.Name = question[0]
        kind = dns.rdatatype.RdataType[question[1]]
        try:
            for _ in range(MAX_ALIASES):
                reply = await self._client.ask(make_question(name, kind), seconds=ends - time.monotonic())
                if isinstance(reply.said, PlainAnswer):
                    return self._note_records(kind, reply.said, reply.server)
                found = reply.said.resolve_chaining()
                if found.answer is not None:
                    records = tuple(record.to_text() for record in found.answer)
                    return self._note_records(kind, PlainAnswer(records, found.minimum_ttl), reply.server)
                if not _is_chain(reply.said, found):
                    return _fail("malformed answer")
                asked = reply.said.question[0].name
                if found.canonical_name == asked or reply.said.rcode() == dns.rcode.NXDOMAIN:
                    return await self._read_absence(found, reply.said, reply.server, ends)
                name = found.canonical_name
        except NoAnswerError as error:
            return _fail(str(error))
        except (dns.exception.DNSException, ValueError):
            return _fail("malformed answer")
        return _fail("too many aliases")

    def _note_records(self, kind: dns.rdatatype.RdataType, found: PlainAnswer, server: Server) -> Answer:
        if kind == dns.rdatatype.PTR:
            self._trust(server)
        return Answer(found.records, seconds=min(max(found.ttl, MIN_TTL_SECONDS), MAX_TTL_SECONDS))

    async def _read_absence(self, found: ChainingResult, said: QueryMessage, server: Server, ends: float) -> Answer:
        if not await self._is_trusted(server, ends):
            return _fail("unconfirmed absence")
        detail = "NXDOMAIN" if said.rcode() == dns.rcode.NXDOMAIN else "no such record"
        has_soa = any(records.rdtype == dns.rdatatype.SOA for records in said.authority)
        ttl = found.minimum_ttl if has_soa else MIN_TTL_SECONDS  # RFC 2308 5: without an SOA it is not kept
        return Answer(detail=detail, seconds=min(max(ttl, MIN_TTL_SECONDS), MAX_ABSENT_SECONDS))

    def _trust(self, server: Server) -> None:
        self._proven[server] = self._last_proof = self._clock()
        self.breaker.record_life()

    async def _is_trusted(self, server: Server, ends: float) -> bool:
        """Whether the server has just given a name, be it that it is asked for one now."""
        if self._clock() - self._proven.get(server, -math.inf) <= CONTROL_SECONDS:
            return True
        checking = self._checking.get(server)
        if checking is None:
            checking = self._checking[server] = asyncio.ensure_future(self._check(server))
            checking.add_done_callback(lambda _: self._checking.pop(server))
        await asyncio.wait({checking}, timeout=ends - time.monotonic())
        return checking.done() and checking.result()

    async def _check(self, server: Server | None = None) -> bool:
        """Ask this server, or any, for what is certain to be there."""
        try:
            reply = await self._client.ask(CONTROL, seconds=self.deadline, only=server)
            if isinstance(reply.said, PlainAnswer) or reply.said.resolve_chaining().answer is not None:
                self._trust(reply.server)
                return True
        except (NoAnswerError, dns.exception.DNSException, ValueError):
            pass
        silent = self._clock() - self._last_proof
        if silent >= DEAD_SECONDS:
            self.breaker.record_death(f"no_server_gave_a_name_for_seconds={silent:.0f}")
        return False

    async def watch(self) -> None:
        """Look after the servers for ever, also while nobody asks: what is dead is noticed, and noticed to be well."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._clock() - self._last_proof >= WATCH_SECONDS:
                await self._check()


class _Slots:
    """Room for so many questions at once, and for so many of one client. Who waits disturbs nobody else.

    Whose questions were long without an answer, of late, has no more than half of the room together with all such.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._all = asyncio.Semaphore(MAX_QUESTIONS)
        self._half = asyncio.Semaphore(max(MAX_QUESTIONS // 2, 1))
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._slow: OrderedDict[str, float] = OrderedDict()  # by party: until when

    def take(self, client: str, party: str, seconds: float) -> _Place:
        """A place for a question, to enter. Raises TimeoutError where there is none within so many seconds."""
        own = self._own.get(client)
        if own is None:
            own = self._own[client] = asyncio.Semaphore(MAX_QUESTIONS_OF_ONE if client else MAX_QUESTIONS)
        return _Place(self, own, party, seconds)

    async def hold(self, own: asyncio.Semaphore, party: str, held: list[asyncio.Semaphore]) -> None:
        """Acquire what a question needs, and note it in `held`; waits where something is used up."""
        await own.acquire()
        held.append(own)
        for shared in (self._half, self._all) if self._slow.get(party, 0.0) > self._clock() else (self._all,):
            await shared.acquire()
            held.append(shared)

    def has_room(self, own: asyncio.Semaphore) -> bool:
        return not (own.locked() or self._half.locked() or self._all.locked())

    def note_slow(self, party: str) -> None:
        if not party:
            return
        self._slow[party] = self._clock() + SLOW_MEMORY_SECONDS
        self._slow.move_to_end(party)
        if len(self._slow) > MAX_SLOW:
            self._slow.popitem(last=False)


class _Place:
    """One of the slots, for as long as it is entered."""

    __slots__ = ("_held", "_own", "_party", "_seconds", "_slots", "_timer")

    def __init__(self, slots: _Slots, own: asyncio.Semaphore, party: str, seconds: float) -> None:
        self._slots, self._own, self._party, self._seconds = slots, own, party, seconds
        self._held: list[asyncio.Semaphore] = []

    async def __aenter__(self) -> None:
        slots, own, party = self._slots, self._own, self._party
        try:
            if slots.has_room(own):  # a deadline has its price, and nothing will be waited for
                await slots.hold(own, party, self._held)
            else:
                async with asyncio.timeout(self._seconds):
                    await slots.hold(own, party, self._held)
        except BaseException:
            self._release()
            raise
        self._timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, slots.note_slow, party)

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        self._release()

    def _release(self) -> None:
        for semaphore in self._held:
            semaphore.release()
