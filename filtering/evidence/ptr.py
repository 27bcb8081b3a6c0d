"""Reverse DNS of the connecting client: the PTR look-up, confirmed forward. Never of an address from a header.

NXDOMAIN and an empty answer say that there is no name. SERVFAIL, REFUSED, a timeout, truncation without TCP, a lame or
bogus answer say nothing, and are told apart: nobody is refused because a name server is ill.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
import dns.reversename

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.breaker import Breaker
from filtering.evidence.dns_cache import TtlCache
from filtering.evidence.text import make_safe

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 5.0  # for the whole look-up, forward confirmation included
SERVER_SECONDS = 1.5  # for one answer of one server, before the next is asked
MAX_NAMES = 10  # PTR names that are looked at
MAX_RECORDS = 100  # of one answer
MAX_ALIASES = 3  # CNAMEs (RFC 2317) followed where the resolver left that to us
CACHE_ENTRIES = 20_000
MAX_TTL_SECONDS = 86_400.0
NEGATIVE_SECONDS = 3600.0  # at most; and where the zone names no time
DEFAULT_NEGATIVE_SECONDS = 300.0
FAILURE_SECONDS = 30.0

# The nets that cannot have reverse DNS in public. Documentation nets are not among them: they are nobody's, and serve
# for tests and demonstrations.
_NOT_ASKED = tuple(
    ipaddress.ip_network(net)
    for net in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
_HOST_NAME = re.compile(
    r"(?=.{4,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])\Z"
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class LookupFailed(Exception):
    """Nobody knows: the reason is in the text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Records as text, or none (with the reason); good for so many seconds."""

    records: tuple[str, ...]
    seconds: float
    detail: str = ""


class Resolver:
    """Asks DNS within a deadline and keeps the answers. One for a process and event loop.

    `addresses` are resolvers as (ip, port); none means the system's. `relays` are networks that are never asked about.
    """

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]] = (),
        *,
        deadline: float = DEADLINE_SECONDS,
        relays: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline = deadline
        self.relays: tuple[Network, ...] = tuple(ipaddress.ip_network(net, strict=False) for net in relays)
        self.cache: TtlCache[PtrEvidence] = TtlCache(CACHE_ENTRIES, clock)
        self.breaker = Breaker("reverse_dns", clock)
        self.waiting: dict[str, asyncio.Task[PtrEvidence]] = {}
        self._resolver = _make_resolver(addresses, deadline)

    async def ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer:
        """The records of the name. No records is an answer too; raises LookupFailed where there is no answer."""
        for _ in range(MAX_ALIASES):
            answer = await self._ask_once(name, kind)
            if not isinstance(answer, dns.name.Name):
                return answer
            name = answer
        raise LookupFailed("too many aliases")

    async def _ask_once(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Answer | dns.name.Name:
        if self._resolver is None:
            raise LookupFailed("no resolver is configured")
        try:
            found = await self._resolver.resolve(name, kind, search=False, lifetime=self.deadline)
        except dns.resolver.NXDOMAIN as error:
            return Answer((), _get_negative_seconds(error.kwargs["responses"][name]), "NXDOMAIN")
        except dns.resolver.NoAnswer as error:
            return _read_no_answer(name, error.kwargs["response"])
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise LookupFailed(_explain(error)) from error
        ttl = float(found.rrset.ttl) if found.rrset is not None else 0.0
        records = tuple(record.to_text() for record, _ in zip(found, range(MAX_RECORDS), strict=False))
        return Answer(records, min(ttl, MAX_TTL_SECONDS))


def _make_resolver(addresses: Sequence[tuple[str, int]], deadline: float) -> dns.asyncresolver.Resolver | None:
    try:
        resolver = dns.asyncresolver.Resolver(configure=not addresses)
    except (dns.exception.DNSException, OSError):
        log.error("resolver_missing hint=LAZARET_DNS")
        return None
    if addresses:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(ip, port) for ip, port in addresses]
    resolver.timeout = min(SERVER_SECONDS, deadline)
    resolver.lifetime = deadline
    resolver.cache = None  # ours holds whole outcomes
    resolver.use_edns(0, 0, 1232)
    return resolver


def _read_no_answer(name: dns.name.Name, response: dns.message.QueryMessage) -> Answer | dns.name.Name:
    """An empty answer: none there, an alias that we follow ourselves, or a referral, which answers nothing."""
    alias = response.resolve_chaining().canonical_name
    if alias != name:
        return alias
    kinds = {records.rdtype for records in response.authority}
    if dns.rdatatype.NS in kinds and dns.rdatatype.SOA not in kinds and not response.flags & dns.flags.AA:
        raise LookupFailed("lame delegation")
    return Answer((), _get_negative_seconds(response), "no such record")


def _get_negative_seconds(response: dns.message.QueryMessage) -> float:
    """How long the absence holds (RFC 2308 5), at most an hour."""
    for records in response.authority:
        if records.rdtype == dns.rdatatype.SOA and len(records):
            return float(min(records.ttl, records[0].minimum, NEGATIVE_SECONDS))
    return DEFAULT_NEGATIVE_SECONDS


def _explain(error: Exception) -> str:
    """What went wrong in a few safe words, such as SERVFAIL, REFUSED or timeout."""
    if isinstance(error, dns.resolver.NoNameservers):
        errors = error.kwargs.get("errors") or []
        last = errors[-1][3] if errors else "no answer"
        return last if isinstance(last, str) else type(last).__name__
    return "timeout" if isinstance(error, dns.exception.Timeout | TimeoutError) else type(error).__name__


async def look_up_ptr(ip: str, resolver: Resolver) -> PtrEvidence:
    """What reverse DNS says about the client's address, within the resolver's deadline. Never raises.

    While too many look-ups fail, an absent name counts as unknown: the rule is off until the resolver is well.
    """
    address = _parse(ip)
    if address is None:
        return PtrEvidence(PtrStatus.SKIPPED, detail="no address")
    if any(address in net for net in (*_NOT_ASKED, *resolver.relays) if net.version == address.version):
        return PtrEvidence(PtrStatus.SKIPPED, detail="not asked about")
    evidence = resolver.cache.find(str(address)) or await _look_up_once(address, resolver)
    if evidence.status is PtrStatus.NONE and resolver.breaker.is_open:
        return replace(evidence, status=PtrStatus.UNKNOWN, detail="too many look-ups fail; not counted as absent")
    return evidence


def _parse(ip: str) -> Address | None:
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


async def _look_up_once(address: Address, resolver: Resolver) -> PtrEvidence:
    """Look it up, together with all others who want the same address now."""
    key = str(address)
    task = resolver.waiting.get(key)
    if task is None:
        task = asyncio.ensure_future(_look_up(address, resolver))
        resolver.waiting[key] = task
        task.add_done_callback(lambda _: resolver.waiting.pop(key, None))
    return await asyncio.shield(task)


async def _look_up(address: Address, resolver: Resolver) -> PtrEvidence:
    started = time.monotonic()
    try:
        async with asyncio.timeout(resolver.deadline):
            evidence, seconds = await _decide(address, resolver)
    except TimeoutError:
        evidence, seconds = PtrEvidence(PtrStatus.UNKNOWN, detail="timeout"), FAILURE_SECONDS
    except Exception as error:  # noqa: BLE001 whatever a stranger's name server sends, the session goes on
        log.error("ptr_lookup_failed error=%s", type(error).__name__)
        evidence, seconds = PtrEvidence(PtrStatus.UNKNOWN, detail=type(error).__name__), FAILURE_SECONDS
    resolver.breaker.record(failed=evidence.status is PtrStatus.UNKNOWN)
    evidence = replace(evidence, milliseconds=round((time.monotonic() - started) * 1000))
    resolver.cache.keep(str(address), evidence, seconds=seconds)
    return evidence


async def _decide(address: Address, resolver: Resolver) -> tuple[PtrEvidence, float]:
    """The evidence, and for how many seconds it holds."""
    try:
        reverse = await resolver.ask(dns.reversename.from_address(str(address)), dns.rdatatype.PTR)
    except LookupFailed as failure:
        return PtrEvidence(PtrStatus.UNKNOWN, detail=str(failure)), FAILURE_SECONDS
    if not reverse.records:
        return PtrEvidence(PtrStatus.NONE, detail=reverse.detail), reverse.seconds
    names = [record.rstrip(".").lower() for record in reverse.records[:MAX_NAMES]]
    shown = make_safe(names[0], limit=253)
    usable = [name for name in names if _HOST_NAME.match(name)]
    if not usable:
        return PtrEvidence(PtrStatus.MALFORMED, shown, detail="no host name"), reverse.seconds
    return await _confirm(address, usable, reverse.seconds, resolver)


async def _confirm(address: Address, names: list[str], seconds: float, resolver: Resolver) -> tuple[PtrEvidence, float]:
    """Whether any of the names leads back to the address. Where nobody can tell, it is unknown, not a mismatch."""
    kind = dns.rdatatype.A if address.version == 4 else dns.rdatatype.AAAA
    asked = [resolver.ask(dns.name.from_text(name), kind) for name in names]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Answer) and address in {ipaddress.ip_address(record) for record in answer.records}:
            return PtrEvidence(PtrStatus.OK, name), min(seconds, answer.seconds)
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, BaseException):
            detail = f"forward look-up: {answer}" if isinstance(answer, LookupFailed) else "forward look-up failed"
            return PtrEvidence(PtrStatus.UNKNOWN, name, detail=detail), FAILURE_SECONDS
    return PtrEvidence(PtrStatus.MISMATCH, names[0], detail="no name leads back"), min(seconds, NEGATIVE_SECONDS)
