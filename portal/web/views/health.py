"""GET /healthz: the state of each part, answered before any middleware needs the database."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import redis.asyncio
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from psycopg.rows import TupleRow

from filtering.policy.releases import LIVE_RELEASE, UnusableRelease, read_live
from portal.tenants.database import get_conninfo
from quarantine.platform.heartbeat import ALARMS, GATEWAY_SECONDS

PATH = "/healthz"
CHECK_SECONDS = 1.5  # each check, all at once
BANNER_SECONDS = 0.5  # more, for the one that comes after another
CACHE_SECONDS = 0.5  # anybody may ask: asking often must not cost
STALE_SECONDS = {"gateway": GATEWAY_SECONDS, "courier": 15, "worker": 20, "beat": 20}  # three or four missed beats
READY, DOWN, READ_ONLY, NO_SPACE, NO_POLICY = "ready", "down", "read_only", "no_space", "no_policy"

State = dict[str, Any]
Database = tuple[bool, dict[str, list[float]]]
NOTHING_READ: Database = (False, {})
T = TypeVar("T")


class HealthMiddleware:
    """Answers /healthz itself: django-tenants would look the hostname up in a database that may be away."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return healthz(request) if request.path_info == PATH else self.get_response(request)


def healthz(request: HttpRequest) -> HttpResponse:
    """200 when every part is ready, else 503; JSON of each part's state. At most two seconds, whatever is down."""
    if request.method not in {"GET", "HEAD"}:
        return HttpResponse(status=405, headers={"Allow": "GET, HEAD"})
    parts = _cache.get()
    ready = all(part["state"] == READY for part in parts.values())
    response = JsonResponse(
        {"ready": ready, "parts": parts},
        status=200 if ready else 503,
        headers={"Cache-Control": "no-store"},
    )
    response._has_been_logged = True  # type: ignore[attr-defined] # Django would call a 503 an error of this page
    return response


class _Cache:
    """The last answer, for half a second; one look at the parts at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parts: dict[str, State] = {}
        self.at = 0.0

    def get(self) -> dict[str, State]:
        with self.lock:
            if time.monotonic() - self.at > CACHE_SECONDS:
                self.parts = asyncio.run(check_parts())
                self.at = time.monotonic()
            return self.parts


_cache = _Cache()


async def check_parts() -> dict[str, State]:
    """Ask every part at once."""
    reading = asyncio.create_task(bounded(_ask(read_database)))
    database, alarms, policy, valkey, banner = await asyncio.gather(
        reading,
        bounded(_ask(read_alarms)),
        bounded(_ask(has_policy)),
        bounded(_ping_cache()),
        _read_banner_after(reading),
    )
    is_read_only, beats = database or NOTHING_READ
    parts: dict[str, State] = {
        "postgres": {"state": DOWN if database is None else READ_ONLY if is_read_only else READY},
        "valkey": {"state": READY if valkey else DOWN},
    }
    for part, limit in STALE_SECONDS.items():
        parts[part] = _judge_beats(beats.get(part, []), limit)
    if parts["gateway"]["state"] == READY:
        parts["gateway"] |= alarms or {}
        if policy is False:
            parts["gateway"]["state"] = NO_POLICY
        if not banner:
            parts["gateway"] |= {"state": DOWN, "banner": False}
    return parts


def _judge_beats(ages: list[float], limit: int) -> State:
    alive = [age for age in ages if age <= limit]
    if not alive:
        return {"state": DOWN, "instances": 0}
    return {"state": READY, "instances": len(alive), "seen_seconds_ago": round(min(alive), 1)}


async def bounded(check: Awaitable[T], *, seconds: float = CHECK_SECONDS) -> T | None:
    """None where a check fails or does not answer in time: that is what this page is for."""
    try:
        async with asyncio.timeout(seconds):
            return await check
    except (TimeoutError, OSError, psycopg.Error, redis.RedisError):
        return None


async def _ask(read: Callable[[psycopg.AsyncConnection[TupleRow]], Awaitable[T]]) -> T:
    connection = await psycopg.AsyncConnection.connect(get_conninfo(application_name="lazaret-health"))
    async with connection:
        return await read(connection)


async def read_database(connection: psycopg.AsyncConnection[TupleRow]) -> Database:
    """Whether nothing can be written to it, so that all mail is put off; and the heartbeats."""
    cursor = await connection.execute("SELECT current_setting('transaction_read_only') = 'on'")
    [(is_read_only,)] = await cursor.fetchall()
    return is_read_only, await read_heartbeats(connection)


async def read_heartbeats(connection: psycopg.AsyncConnection[TupleRow]) -> dict[str, list[float]]:
    """Ages in seconds of each part's processes, by the database's clock; of the last minute."""
    rows = await connection.execute(
        "SELECT part, extract(epoch FROM now() - at)::float FROM public.platform_heartbeat"
        " WHERE at > now() - interval '1 minute'"
    )
    ages: dict[str, list[float]] = {}
    for part, age in await rows.fetchall():
        ages.setdefault(part, []).append(max(age, 0.0))
    return ages


async def read_alarms(connection: psycopg.AsyncConnection[TupleRow]) -> State:
    """Whether the reverse DNS rule is on, in every gateway that lives: off is an alarm, but mail is taken. Where all of
    them lack space, none is.
    """
    cursor = await connection.execute(ALARMS, (GATEWAY_SECONDS,))
    [(since, _, _, lacks_space)] = await cursor.fetchall()
    rule = {"reverse_dns_rule": "off", "reverse_dns_rule_off_since": since} if since else {"reverse_dns_rule": "on"}
    return rule | ({"state": NO_SPACE} if lacks_space else {})


async def has_policy(connection: psycopg.AsyncConnection[TupleRow]) -> bool:
    """Whether there is one to judge by, as gateways find it: they remember a release only until it changes."""
    cursor = await connection.execute(LIVE_RELEASE)
    try:
        read_live(await cursor.fetchall())
    except UnusableRelease:
        return False
    return True


async def _ping_cache() -> bool:
    client = redis.asyncio.Redis.from_url(settings.CACHES["default"]["LOCATION"], socket_timeout=CHECK_SECONDS)
    async with client:
        return bool(await client.ping())


async def _read_banner_after(reading: asyncio.Task[Database | None]) -> bool | None:
    """Whether a gateway greets, within a time of its own; asked only once one has signed: whom a gateway turns away it
    puts on record.
    """
    _, beats = await reading or NOTHING_READ
    is_ready = _judge_beats(beats.get("gateway", []), GATEWAY_SECONDS)["state"] == READY
    return is_ready and await bounded(_read_banner(), seconds=BANNER_SECONDS)


async def _read_banner() -> bool:
    """Whether the gateway greets, where it runs beside us; elsewhere its heartbeat must do."""
    if not settings.SUPERVISED:
        return True
    address = settings.SMTP_ADDRESS
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - any means loopback too
    reader, writer = await asyncio.open_connection(host, address.port)
    try:
        greeting = await reader.readline()
        writer.write(b"QUIT\r\n")
        return greeting.startswith(b"220")
    finally:
        writer.close()
