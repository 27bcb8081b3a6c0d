"""How often something may be asked: counted in the cache, over all processes and all providers together."""

from __future__ import annotations

from allauth.account.adapter import get_adapter
from django.core.cache import cache
from django.http import HttpRequest
from django_tenants.utils import get_public_schema_name, schema_context

from filtering.evidence.addresses import name_client


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


def get_client(request: HttpRequest) -> str:
    """The client for whom uses are counted: an IPv4 address, or the network of an IPv6 one."""
    return name_client(get_adapter().get_client_ip(request))
