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
from dataclasses import replace

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.addresses import Address, is_public, read_address
from filtering.evidence.resolver import Answer, Resolver
from filtering.evidence.text import make_safe

log = logging.getLogger(__name__)

MAX_NAMES = 10  # PTR names that are looked at
MAX_AT_ONCE = 2  # of them asked about
OFF_SECONDS = 1.0  # that is waited while the rule is off: the questions go on, and a late answer is kept
IPV6_NETWORK_BITS = 48
RULE_OFF = "the rule is off while look-ups fail"  # after what the resolver said

_HOST_NAME = re.compile(
    r"(?=.{4,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])\Z"
)


async def look_up_ptr(ip: str, resolver: Resolver) -> PtrEvidence:
    """What reverse DNS says about the client's address, within the resolver's deadline. Never raises.

    While too many look-ups fail, an absent name counts as unknown: the rule is off until the resolver is well.
    """
    address = read_address(ip)
    if address is None:
        return PtrEvidence(PtrStatus.SKIPPED, detail="no address")
    is_relay = any(address in net for net in resolver.relays if net.version == address.version)
    if is_relay or not is_public(address):
        return PtrEvidence(PtrStatus.SKIPPED, detail="not asked about")
    evidence = await _look_up(address, resolver)
    if evidence.status in {PtrStatus.NONE, PtrStatus.UNKNOWN} and resolver.breaker.is_open:
        return replace(evidence, status=PtrStatus.UNKNOWN, detail=f"{evidence.detail}; {RULE_OFF}")
    return evidence


async def _look_up(address: Address, resolver: Resolver) -> PtrEvidence:
    started = time.monotonic()
    outcome = _LookUp(address, resolver)
    patience = min(resolver.deadline, OFF_SECONDS) if resolver.breaker.is_open else resolver.deadline
    try:
        async with asyncio.timeout(patience):
            evidence = await outcome.decide()
    except TimeoutError:
        evidence, outcome.is_new = PtrEvidence(PtrStatus.UNKNOWN, detail="timeout"), True
    except Exception as error:  # noqa: BLE001 whatever a stranger's name server sends, the session goes on
        log.error("ptr_lookup_failed error=%s", type(error).__name__)
        evidence, outcome.is_new = PtrEvidence(PtrStatus.UNKNOWN, detail=type(error).__name__), True
    if outcome.is_new:
        resolver.counts["stale" if outcome.is_stale else evidence.failure or evidence.status.value] += 1
    return replace(evidence, milliseconds=round((time.monotonic() - started) * 1000))


class _LookUp:
    """One address's look-up; `is_new` says that something had to be asked for it."""

    def __init__(self, address: Address, resolver: Resolver) -> None:
        self.address = address
        self.client = name_network(address)
        self.resolver = resolver
        self.is_new = self.is_stale = False
        self.places = asyncio.Semaphore(MAX_AT_ONCE)

    async def ask(self, name: str, kind: str) -> Answer:
        answer = await self.resolver.ask(name, kind, client=self.client)
        self.is_new |= answer.is_new
        self.is_stale |= answer.is_stale
        return answer

    async def ask_in_turn(self, name: str, kind: str) -> Answer:
        async with self.places:
            return await self.ask(name, kind)

    async def decide(self) -> PtrEvidence:
        reverse = await self.ask(self.address.reverse_pointer, "PTR")
        if not reverse.is_known:
            return PtrEvidence(PtrStatus.UNKNOWN, detail=reverse.detail)
        if not reverse.records:
            return PtrEvidence(PtrStatus.NONE, detail=reverse.detail)
        names = [record.rstrip(".").lower() for record in reverse.records[:MAX_NAMES]]
        usable = [name for name in names if _HOST_NAME.match(name)]
        if not usable:
            return PtrEvidence(PtrStatus.MALFORMED, make_safe(names[0], limit=253), detail="no host name")
        return await self.confirm(usable)

    async def confirm(self, names: list[str]) -> PtrEvidence:
        """Whether any of the names leads back to the address. Where nobody can tell, it is unknown, not a mismatch."""
        kind = "A" if self.address.version == 4 else "AAAA"
        answers = [await self.ask(names[0], kind)]
        if not self.leads_back(answers[0]):
            answers += await asyncio.gather(*(self.ask_in_turn(name, kind) for name in names[1:]))
        for name, answer in zip(names, answers, strict=False):
            if self.leads_back(answer):
                return PtrEvidence(PtrStatus.OK, name, detail="stale" if self.is_stale else "")
        for name, answer in zip(names, answers, strict=True):
            if not answer.is_known or answer.is_stale:
                return PtrEvidence(PtrStatus.UNKNOWN, name, detail=f"forward look-up: {answer.detail or 'stale'}")
        return PtrEvidence(PtrStatus.MISMATCH, names[0], detail="no name leads back")

    def leads_back(self, answer: Answer) -> bool:
        if self.address.version == 4:
            return str(self.address) in answer.records
        return any(self.address == ipaddress.ip_address(record) for record in answer.records)


def name_network(address: Address) -> str:
    """The network of an address that one party is likely to hold: /24, or /48 of IPv6."""
    if address.version == 4:
        return f"{str(address).rpartition('.')[0]}.0/24"
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
