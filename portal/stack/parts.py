"""The processes of Lazaret's own: what each is started with. The order here is the order of starting."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from portal.settings.environment import PROJECT
from portal.stack.process import Launch

WEB_WORKERS = 2
WEB_THREADS = 8
WORKER_PROCESSES = 2
QUEUES = "default,digest,release"


@dataclass(frozen=True)
class Part:
    """One process: its name, its arguments to Python, and how long its orderly end may take."""

    name: str
    arguments: tuple[str, ...]
    stop_seconds: float = 10
    sockets: tuple[int, ...] = ()


def list_parts(*, web_socket: int, gateways: int, demo: bool) -> list[Part]:
    world = [Part("demo", ("manage.py", "demo_world"), 5)] if demo else []
    celery = ("-m", "celery", "-A", "portal.celery")
    worker = ("worker", "--queues", QUEUES, "--concurrency", str(WORKER_PROCESSES), "--loglevel", "INFO")
    return [
        *world,
        Part("courier", ("manage.py", "courier"), 75),  # a minute for a customer's server to answer the final dot
        Part("worker", (*celery, *worker, "--without-gossip", "--without-mingle"), 20),
        # Its schedule in memory: the persistent one is a pickle, and knows nothing that the database does not.
        Part(
            "beat", (*celery, "beat", "--scheduler", "portal.beat:Scheduler", "--pidfile", "", "--loglevel", "INFO"), 5
        ),
        Part("web", ("-m", "gunicorn", *_web(web_socket), "portal.wsgi"), 15, sockets=(web_socket,)),
        *(Part(f"gateway-{number}", ("manage.py", "gateway"), 35) for number in range(1, gateways + 1)),
    ]


def _web(web_socket: int) -> tuple[str, ...]:
    """The supervisor listens: while the web server starts anew, who comes waits instead of being turned away."""
    return (
        *("--bind", f"fd://{web_socket}", "--no-control-socket", "--name", "lazaret"),
        *("--worker-class", "gthread", "--workers", str(WEB_WORKERS), "--threads", str(WEB_THREADS)),
        *("--graceful-timeout", "10", "--access-logfile", "-", "--logger-class", "portal.stack.access.AccessLogger"),
    )


def make_launch(part: Part, environment: Mapping[str, str], logs: Path) -> Launch:
    """Run our own Python in the project. The gateways share one log."""
    return Launch(
        command=(sys.executable, *part.arguments),
        environment={**environment, "PYTHONUNBUFFERED": "1"},
        directory=PROJECT,
        log=logs / f"{part.name.partition('-')[0]}.log",
        sockets=part.sockets,
    )
