"""How often something may be asked: counted in the cache, over all processes and all providers together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from threading import BoundedSemaphore

from allauth.account.adapter import get_adapter
from django.core.cache import cache
from django.http import HttpRequest
from django_tenants.utils import get_public_schema_name, schema_context
from redis.exceptions import RedisError

from filtering.evidence.addresses import name_client

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60


def use_up(name: str, *, times: int, seconds: int) -> bool:
    """Count one use; False where there were as many already since the first one, so many seconds ago at most.

    Raises RedisError while the cache is out of reach.
    """
    with schema_context(get_public_schema_name()):  # the keys of the cache carry the schema
        cache.add(name, 0, seconds)
        used = int(cache.incr(name))
        if used == 1:  # the entry may have ended in between, and have been made anew without an end
            cache.touch(name, seconds)
    return used <= times


class Refusal(StrEnum):
    """Why somebody's question is not asked."""

    LIMITED = "limited"  # they asked too often
    BUSY = "busy"  # all together did, or too many do now
    UNAVAILABLE = "unavailable"  # it could not be counted


@contextmanager
def take_turn(
    slots: BoundedSemaphore, name: str, whose: object, *, times: int, in_all: int | None = None
) -> Iterator[Refusal | None]:
    """Count a question that takes seconds, and hold one of the process's slots while it is asked; or say why not.

    So many `times` a minute for whoever it is, `in_all` for all together.
    """
    refusal = _count_turn(name, whose, times, in_all)
    if refusal is None and not slots.acquire(blocking=False):
        refusal = Refusal.BUSY
    try:
        yield refusal
    finally:
        if refusal is None:
            slots.release()


def _count_turn(name: str, whose: object, times: int, in_all: int | None) -> Refusal | None:
    try:
        if not use_up(f"{name}:{whose}", times=times, seconds=WINDOW_SECONDS):
            return Refusal.LIMITED
        if in_all is not None and not use_up(name, times=in_all, seconds=WINDOW_SECONDS):
            return Refusal.BUSY
    except (RedisError, ValueError):  # ValueError: the entry went while it was counted
        log.warning("check_not_counted name=%s", name)
        return Refusal.UNAVAILABLE
    return None


def get_client(request: HttpRequest) -> str:
    """The client for whom uses are counted: an IPv4 address, or the network of an IPv6 one."""
    return name_client(get_adapter().get_client_ip(request))
