"""A look at the reverse DNS of an address for a stranger: only DNS is asked, and only so often."""

from __future__ import annotations

import asyncio
import threading

from django.conf import settings

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.addresses import Address, is_public
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver
from portal.web.limits import Refusal, take_turn

LOOKUP_SECONDS = 4.0
MAX_OF_CLIENT = 10  # in a minute
MAX_IN_ALL = 60
MAX_AT_ONCE = 2  # of a process: each holds a thread of the web server
_slots = threading.BoundedSemaphore(MAX_AT_ONCE)


def check_address(address: Address, *, client: str) -> PtrEvidence | Refusal:
    """What we see now, past everything that the gateways remember. Takes some seconds at most and never raises."""
    if not is_public(address):
        return PtrEvidence(PtrStatus.SKIPPED, detail="not public")
    with take_turn(_slots, "ptr-check", client, times=MAX_OF_CLIENT, in_all=MAX_IN_ALL) as refusal:
        return refusal or asyncio.run(_look_up(str(address)))


async def _look_up(ip: str) -> PtrEvidence:
    resolver = Resolver([(server.host, server.port) for server in settings.RESOLVERS], deadline=LOOKUP_SECONDS)
    return await look_up_ptr(ip, resolver)
