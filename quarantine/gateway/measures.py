"""What a gateway process reports about itself while it runs: levels, and the counts that its parts keep."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver
from quarantine import metrics
from quarantine.records import LOOK_UP, MAX_CAUSE
from quarantine.store import Store

if TYPE_CHECKING:
    from quarantine.gateway.server import Gateway

MEASURE_SECONDS = 0.5
TABLE_SECONDS = 10.0


async def keep_measuring(gateway: Gateway) -> None:
    """Bring the numbers up to date, until cancelled."""
    services, store = gateway.services, gateway.store
    catch_up = (
        metrics.follow(metrics.SHED, gateway.load.shed),
        metrics.follow(metrics.PTR_LOOKUPS, gateway.resolver.counts),
        metrics.follow(metrics.RECIPIENT_CHECKS, services.recipients.counts),
    )
    while True:
        metrics.OPEN_SESSIONS.set(len(services.sessions))
        metrics.IN_HAND_BYTES.set(services.memory.taken)
        metrics.EVENT_LOOP_LAG_SECONDS.set(gateway.load.peak_seconds)
        metrics.STORE_QUEUE_ITEMS.set(store.depth)
        metrics.STORE_QUEUE_OLDEST_SECONDS.set(store.oldest_seconds)
        metrics.STORE_CLOSED.set(store.is_closed)
        metrics.REVERSE_DNS_BREAKER_OPEN.set(gateway.resolver.breaker.is_open)
        for bring_up_to_date in catch_up:
            bring_up_to_date()
        await asyncio.sleep(MEASURE_SECONDS)


async def keep_counting_look_ups(counts: Counter[str], store: Store) -> None:
    """Have the outcomes of look-ups in the table of counts too, until cancelled, and then those since the last time."""
    seen: Counter[str] = Counter()

    def catch_up() -> None:
        new = counts - seen
        seen.update(new)
        for outcome, number in new.items():
            store.count(LOOK_UP, outcome[:MAX_CAUSE], number)

    try:
        while True:
            await asyncio.sleep(TABLE_SECONDS)
            catch_up()
    finally:
        catch_up()


async def look_up_client(ip: str, *, resolver: Resolver) -> PtrEvidence:
    """As look_up_ptr, measured."""
    evidence = await look_up_ptr(ip, resolver)
    if evidence.status is not PtrStatus.SKIPPED:
        metrics.PTR_LOOKUP_SECONDS.observe(evidence.milliseconds / 1000)
    return evidence
