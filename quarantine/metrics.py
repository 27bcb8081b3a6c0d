"""Every number that is measured, by name; `/metrics` shows them added up over the processes of a machine.

Counting costs about a microsecond and never waits: the numbers live in the process, and quarantine.tally carries them
out. A label has few values, all of our own choosing: nothing that a stranger says becomes one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache

import psutil
from django.conf import settings
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric

from quarantine.tally import Tally, add_up

log = logging.getLogger(__name__)

REGISTRY = CollectorRegistry()
QUICK_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
SLOW_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
ITEMS = (1, 2, 5, 10, 20, 50, 100)
VERBS = frozenset(
    {"HELO", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP", "AUTH"}
    | {"STARTTLS", "XCLIENT", "XFORWARD"}
)


def _count(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"lazaret_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"lazaret_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(f"lazaret_{name}", text, labels, buckets=buckets, registry=REGISTRY)


# The gateway. `cause` is a quarantine.causes.Cause, or empty.
CONNECTIONS = _count(
    "connections",
    "Connections that ended: by the client (ended), by us for now (deferred) or for good (refused); and why.",
    *("outcome", "cause"),
)
OPEN_SESSIONS = _gauge("open_sessions", "SMTP sessions open now.")
COMMANDS = _count("commands", "SMTP commands, by verb and class of the reply.", "verb", "reply")
RECIPIENTS = _count(
    "recipients",
    "Recipients by what was decided when their mail came (accepted, held, refused, deferred, unfinished, repeated: see"
    " docs/operations.md), and why; a connection that named none is one. As on the page of counts.",
    *("outcome", "cause"),
)
RECEIVED_BYTES = _count("received_bytes", "Octets of messages received.")
DATA_REPLY_SECONDS = _histogram(
    "data_reply_seconds", "Seconds from the end of a message to the reply.", buckets=QUICK_SECONDS
)
IN_HAND_BYTES = _gauge("in_hand_bytes", "Octets of messages that sessions have in memory now.")
EVENT_LOOP_LAG_SECONDS = _gauge(
    "event_loop_lag_seconds", "How late a gateway's event loop was at its worst in the last 10 to 20 seconds."
)
SHED = _count("shed", "Connections and messages told to come later, to keep the gateway well, by cause.", "cause")
DUPLICATES = _count("duplicates", "Messages sent again although they were taken: answered 250, not kept twice.")

# The store
COMMIT_SECONDS = _histogram("commit_seconds", "Seconds that a commit of the gateway took.", buckets=QUICK_SECONDS)
COMMIT_ITEMS = _histogram("commit_items", "Messages, refusals and notes that shared a commit.", buckets=ITEMS)
STORE_QUEUE_ITEMS = _gauge("store_queue_items", "Messages and refusals that wait for the next commit.")
STORE_QUEUE_OLDEST_SECONDS = _gauge(
    "store_queue_oldest_seconds", "Age of the oldest of them, those being committed included."
)
STORE_CLOSED = _gauge("store_closed", "Gateways that cannot store anything, because PostgreSQL does not.")

# What is asked of others
PTR_LOOKUPS = _count("ptr_lookups", "New look-ups of the reverse DNS of clients, by outcome.", "outcome")
PTR_LOOKUP_SECONDS = _histogram(
    "ptr_lookup_seconds", "Seconds until a client's reverse DNS was known, remembered or not.", buckets=QUICK_SECONDS
)
REVERSE_DNS_BREAKER_OPEN = _gauge(
    "reverse_dns_breaker_open", "Gateways whose reverse DNS rule is off, because too many look-ups fail."
)
RECIPIENT_CHECKS = _count(
    "recipient_checks", "Recipients without a mailbox here, by how it was decided if they may have mail.", "outcome"
)

# The courier
DELIVERY_ATTEMPTS = _count("delivery_attempts", "Recipients tried to deliver to, by lane and result.", "lane", "result")
DELIVERY_ATTEMPT_SECONDS = _histogram(
    "delivery_attempt_seconds", "Seconds that a try to deliver a message took, by lane.", "lane", buckets=SLOW_SECONDS
)
DELIVERY_SERVERS_DOWN = _gauge("delivery_servers_down", "Customers' servers that cannot be reached now.")

# Portal and worker
PAGES = _count("pages", "Requests that the portal answered, by class of the status.", "status")
PAGE_SECONDS = _histogram("page_seconds", "Seconds that the portal took for a request.", buckets=QUICK_SECONDS)
TASKS = _count("tasks", "Tasks that a worker ended, by name and result.", "task", "result")
TASK_SECONDS = _histogram("task_seconds", "Seconds that a task of the worker took.", buckets=SLOW_SECONDS)

# Every process
PROCESS_CPU_SECONDS = _count("process_cpu_seconds", "Seconds of processor time used, by process.", "process")
PROCESS_RESIDENT_BYTES = _gauge("process_resident_bytes", "Memory in use, by process.", "process")

HIGHEST = frozenset(
    {"lazaret_event_loop_lag_seconds", "lazaret_store_queue_oldest_seconds"}
)  # gauges of which the highest counts; the others are added up


def count_command(verb: str, code: int) -> None:
    """An SMTP command, whatever a client calls a command, and the code of its reply."""
    _get_command(verb if verb in VERBS else "other", code // 100).inc()


@cache  # to find a child by its labels costs three times what counting does
def _get_command(verb: str, kind: int) -> Counter:
    return COMMANDS.labels(verb, f"{kind}xx")


def count_connection(cause: str, code: int) -> None:
    """A connection that ended: by our last reply, or (code 0) by the client."""
    CONNECTIONS.labels({0: "ended", 5: "refused"}.get(code // 100, "deferred"), cause).inc()


def follow(counter: Counter, counts: Mapping[str, int]) -> Callable[[], None]:
    """What brings `counter`, labelled with the keys, up to `counts`, which somebody else keeps and which only grow."""
    seen: dict[str, int] = {}

    def catch_up() -> None:
        for key, number in dict(counts).items():
            counter.labels(key).inc(number - seen.get(key, 0))
            seen[key] = number

    return catch_up


def report(part: str, *before_write: Callable[[], None]) -> Tally | None:
    """Begin to report the numbers of this process, a `part` of Lazaret; `before_write` brings some up to date.

    Once a process, after its last fork. None where LAZARET_HOME cannot be written: that is no reason to take no mail.
    """
    try:
        tally = Tally(settings.METRICS_HOME, part, REGISTRY)
    except OSError as error:
        log.warning("metrics_not_written process=%s error=%s", part, type(error).__name__)
        return None
    tally.before_write = [measure_process(tally.name), *before_write]
    tally.start()
    return tally


def measure_process(name: str) -> Callable[[], None]:
    """What brings the numbers of the process itself up to date."""
    process = psutil.Process()
    used = 0.0

    def measure() -> None:
        nonlocal used
        times = process.cpu_times()
        now = times.user + times.system
        PROCESS_CPU_SECONDS.labels(name).inc(max(now - used, 0.0))
        used = now
        PROCESS_RESIDENT_BYTES.labels(name).set(process.memory_info().rss)

    return measure


def read_all() -> list[Metric]:
    """Every metric, added up over the processes of this machine."""
    return add_up(settings.METRICS_HOME, REGISTRY, highest=HIGHEST)
