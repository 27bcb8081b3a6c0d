"""GET /metrics: the numbers of all processes of this machine, for Prometheus; and the counting of pages."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from portal.settings.environment import PROJECT
from portal.tenants.database import get_conninfo
from portal.web.views.health import STALE_SECONDS, bounded, read_heartbeats
from quarantine import metrics
from quarantine.delivery.rows import MOST_COUNTED, measure_queues

PATH = "/metrics"
STATEMENT_MILLISECONDS = 1000
FORWARDED = ("FORWARDED", "VIA", "X_FORWARDED_FOR", "X_FORWARDED_PROTO", "X_FORWARDED_HOST", "X_REAL_IP")
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]


class MetricsMiddleware:
    """Answers /metrics itself, to those who may read it; to all others it is a page that does not exist.

    Before any middleware that needs the database, which may be away.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info == PATH and may_read(request):
            return show_metrics(request)
        started = time.perf_counter()
        response = self.get_response(request)
        metrics.PAGE_SECONDS.observe(time.perf_counter() - started)
        metrics.PAGES.labels(f"{response.status_code // 100}xx").inc()
        return response


def may_read(request: HttpRequest) -> bool:
    """This machine, asking without a proxy; and the networks of LAZARET_METRICS, through our own proxies too."""
    is_forwarded = any(f"HTTP_{name}" in request.META for name in FORWARDED)
    client = find_client(request) if is_forwarded else request.META.get("REMOTE_ADDR", "")
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback and not is_forwarded:
        return True
    return any(address in ipaddress.ip_network(network) for network in settings.METRICS_NETWORKS)


def find_client(request: HttpRequest) -> str:
    """Who asked the outermost of our own proxies (LAZARET_PROXIES); empty where we have none."""
    count = settings.ALLAUTH_TRUSTED_PROXY_COUNT
    hops = [hop.strip() for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")]
    return hops[-count] if 0 < count <= len(hops) else ""


def show_metrics(request: HttpRequest) -> HttpResponse:
    """All numbers, in Prometheus' text format. Takes under two seconds, whatever is down."""
    if request.method not in {"GET", "HEAD"}:
        return HttpResponse(status=405, headers={"Allow": "GET, HEAD"})
    found = [*metrics.read_all(), *measure_machine(), *asyncio.run(measure_database())]
    return HttpResponse(
        generate_latest(_Found(found)), content_type=CONTENT_TYPE_PLAIN_0_0_4, headers={"Cache-Control": "no-store"}
    )


class _Found(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self.found = found

    def collect(self) -> Iterable[Metric]:
        return self.found


def measure_machine() -> Iterator[Metric]:
    build = GaugeMetricFamily("lazaret_build_info", "What runs here; always 1.", labels=["version", "python"])
    build.add_metric([VERSION, sys.version.split()[0]], 1)
    yield build
    with suppress(OSError):
        disk = shutil.disk_usage(settings.HOME)
        yield _gauge("home_free_bytes", "Free octets on the disk of LAZARET_HOME.", disk.free)
        yield _gauge("home_size_bytes", "Octets of that disk in all.", disk.total)


async def measure_database() -> list[Metric]:
    """What only the database knows; without it, that it is away."""
    processes, queues = await asyncio.gather(bounded(_ask(_measure_processes)), bounded(_ask(_measure_queues)))
    return [
        _gauge("database_up", "Whether PostgreSQL answers.", processes is not None),
        *(processes or ()),
        *(queues or ()),
    ]


async def _ask(measure: Callable[[AsyncConnection[TupleRow]], Awaitable[list[Metric]]]) -> list[Metric]:
    options = f"-c statement_timeout={STATEMENT_MILLISECONDS}"
    connection = await AsyncConnection.connect(get_conninfo(application_name="lazaret-metrics", options=options))
    async with connection:
        return await measure(connection)


async def _measure_processes(connection: AsyncConnection[TupleRow]) -> list[Metric]:
    ages = await read_heartbeats(connection)
    alive = _labelled("processes_up", "Processes that gave a sign of life of late, on all machines, by part.", "part")
    last = _labelled("heartbeat_age_seconds", "Seconds since a process of the part gave a sign of life.", "part")
    for part, limit in STALE_SECONDS.items():
        alive.add_metric([part], sum(age <= limit for age in ages.get(part, ())))
        if part in ages:
            last.add_metric([part], min(ages[part]))
    return [alive, last]


async def _measure_queues(connection: AsyncConnection[TupleRow]) -> list[Metric]:
    jobs = _labelled(
        "delivery_queue_jobs", f"Recipients to deliver to, by lane; {MOST_COUNTED} means that or more.", "lane"
    )
    oldest = _labelled("delivery_queue_oldest_seconds", "Age of the oldest of them, by lane.", "lane")
    overdue = _labelled(
        "delivery_overdue_seconds", "For how long one is due that no courier has taken up, by lane.", "lane"
    )
    for queue in await measure_queues(connection):
        jobs.add_metric([queue.lane], queue.jobs)
        oldest.add_metric([queue.lane], queue.oldest_seconds)
        overdue.add_metric([queue.lane], queue.overdue_seconds)
    return [jobs, oldest, overdue]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"lazaret_{name}", text, value=value)


def _labelled(name: str, text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"lazaret_{name}", text, labels=[label])
