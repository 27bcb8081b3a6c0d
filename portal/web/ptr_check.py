"""A look at the reverse DNS of an address for a stranger: only DNS is asked, and only so often."""

from __future__ import annotations

import asyncio
import logging
import threading
from enum import StrEnum

from django.conf import settings
from redis.exceptions import RedisError

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.addresses import Address, is_public
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver
from portal.web.limits import use_up

log = logging.getLogger(__name__)

LOOKUP_SECONDS = 4.0
WINDOW_SECONDS = 60
MAX_OF_CLIENT = 10  # in a window
MAX_IN_ALL = 60
MAX_AT_ONCE = 2  # of a process: each holds a thread of the web server
_slots = threading.BoundedSemaphore(MAX_AT_ONCE)


class Refusal(StrEnum):
    """Why nothing was looked up."""

    LIMITED = "limited"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"


def check_address(address: Address, *, client: str) -> PtrEvidence | Refusal:
    """What we see now, past everything that the gateways remember. Takes some seconds at most and never raises."""
    if not is_public(address):
        return PtrEvidence(PtrStatus.SKIPPED, detail="not public")
    try:
        if not use_up(f"ptr-check:{client}", times=MAX_OF_CLIENT, seconds=WINDOW_SECONDS):
            return Refusal.LIMITED
        if not use_up("ptr-check", times=MAX_IN_ALL, seconds=WINDOW_SECONDS):
            return Refusal.BUSY
    except (RedisError, ValueError):  # ValueError: the entry went while it was counted
        log.warning("ptr_check_not_counted")
        return Refusal.UNAVAILABLE
    if not _slots.acquire(blocking=False):
        return Refusal.BUSY
    try:
        return asyncio.run(_look_up(str(address)))
    finally:
        _slots.release()


async def _look_up(ip: str) -> PtrEvidence:
    resolver = Resolver([(server.host, server.port) for server in settings.RESOLVERS], deadline=LOOKUP_SECONDS)
    return await look_up_ptr(ip, resolver)
