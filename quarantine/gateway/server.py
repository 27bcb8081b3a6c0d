"""One gateway process: listens, waits for PostgreSQL, ends in order. Several share the port by SO_REUSEPORT."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import resource
import signal
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import psycopg
from django.conf import settings

from filtering.evidence.resolver import Resolver
from filtering.learning.classifier import Classifier, get_model_path
from portal.tenants.database import end_all, make_pool
from portal.tenants.directory import Directory
from quarantine.delivery.callout import CONVERSATIONS, Callout
from quarantine.examiners import Examiners
from quarantine.faults import name_fault
from quarantine.gateway.limits import Limits
from quarantine.gateway.load import SIZES_FREE, Load, find_data
from quarantine.gateway.measures import keep_counting_look_ups, keep_measuring, look_up_client
from quarantine.gateway.recipients import RecipientFinder
from quarantine.gateway.services import Services
from quarantine.gateway.session import Session
from quarantine.gateway.story import Ledger
from quarantine.intake import Intake
from quarantine.locks import LOCK_SECONDS
from quarantine.platform.heartbeat import keep_beating
from quarantine.store import STATEMENT_SECONDS, Store

log = logging.getLogger(__name__)

PART = "gateway"
DRAIN_SECONDS = 30.0
RETRY_SECONDS = 1.0
READY_SECONDS = 2.0  # for a PostgreSQL that is there; a client that comes sooner is served by the other processes
POOL_SIZE = 8
# One writes, another is there at once when that one hangs. A connection knows the tables and plans of each provider
# that it has written for: with a thousand of them that is half a gigabyte.
STORE_POOL_SIZE = 3
BACKLOG = 1024
OWN_FILES = 64  # of a process: PostgreSQL, logs, the listener
CONVERSATION_FILES = 2  # of a call-out: its connection, and one that is kept
CALLOUT_PART = 4  # call-outs have at most the fourth part of the others
SESSION_FILES = 2  # of a session: its connection, and one to a resolver


class Gateway:
    """Everything of a gateway process. Made and used inside one event loop: `start`, `serve`, `stop`."""

    def __init__(self, *, limits: Limits | None = None, place: str = "") -> None:
        """`place` is what sets it apart from others on this machine; the next process in it may have the same."""
        self.instance = f"{socket.gethostname()}:{place or os.getpid()}"[-64:]
        self.pool, self.store_pool = (
            make_pool(name=name, max_size=size, statement_seconds=STATEMENT_SECONDS, lock_seconds=LOCK_SECONDS)
            for name, size in ((PART, POOL_SIZE), (f"{PART}-store", STORE_POOL_SIZE))
        )
        self.examiners = Examiners()
        self.directory = Directory(self.pool, hostname=settings.SMTP_HOSTNAME)
        limits, conversations = fit_to_files(limits or make_limits())
        self.callout = Callout(hostname=settings.SMTP_HOSTNAME, conversations=conversations)
        self.store = Store(self.store_pool, instance=self.instance)
        self.resolver = Resolver([(address.host, address.port) for address in settings.RESOLVERS])
        classifier = Classifier.load(get_model_path())
        intake = Intake(
            self.pool, self.directory, self.store, classifier, self.examiners, hostname=settings.SMTP_HOSTNAME
        )
        self.load = Load(
            self.store,
            self.examiners,
            places=[Path(settings.HOME)],
            min_free_octets=max(settings.MIN_FREE_BYTES, int(limits.message_octets * SIZES_FREE)),
            is_database_heard=self.directory.listening.is_set,
        )
        self.services = Services(
            hostname=settings.SMTP_HOSTNAME,
            recipients=RecipientFinder(self.directory, self.callout),
            intake=intake,
            load=self.load,
            ledger=Ledger(self.store.note),
            look_up_ptr=functools.partial(look_up_client, resolver=self.resolver),
            limits=limits,
            tls=make_tls_context(),
            trusted_networks=settings.XCLIENT_NETWORKS,
            balancer_networks=settings.PROXY_PROTOCOL_NETWORKS,
        )
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        assert self._server is not None  # noqa: S101 - asked for after start
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int) -> None:
        """Get ready as soon as PostgreSQL answers, and listen; where it does not at once, clients are told 421."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Session(self.services), host, port, reuse_port=True, backlog=BACKLOG, start_serving=False
        )
        await self.pool.open(wait=False)
        await self.store_pool.open(wait=False)
        await self.directory.start()
        work = (self._get_ready(), self._beat(), self.resolver.watch(), self.load.run())
        numbers = keep_measuring(self), keep_counting_look_ups(self.resolver.counts, self.store)
        self._tasks = [asyncio.create_task(part, name=getattr(part, "__name__", "part")) for part in (*work, *numbers)]
        is_over, _ = await asyncio.wait(self._tasks[:1], timeout=READY_SECONDS)
        if not any(ready.exception() for ready in is_over):
            await self._server.start_serving()

    @property
    def ended_parts(self) -> list[str]:
        """Which of the parts that never end have ended, with the fault."""
        ended = [task for task in self._tasks[1:] if task.done()]
        return [f"{task.get_name()}:{name_fault(task.exception() or EOFError())}" for task in ended]

    async def wait_until_ready(self) -> None:
        await asyncio.shield(self._tasks[0])

    async def _get_ready(self) -> None:
        while True:
            try:
                await self.store.start()
                break
            except (psycopg.Error, OSError) as error:
                log.warning("waiting_for_postgres error=%s", type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
        self.load.places += await find_data(self.pool)
        self.services.is_ready = True
        log.info("gateway_ready instance=%s pid=%d", self.instance, os.getpid())

    async def _beat(self) -> None:
        """Show signs of life once there is something alive to show."""
        await self.wait_until_ready()
        breaker, load = self.resolver.breaker, self.load
        await keep_beating(self.pool, PART, self.instance, get_alarms=lambda: (breaker.open_since, load.lacks_space))

    async def stop(self, seconds: float = DRAIN_SECONDS) -> None:
        """Listen no more, let what is under way end within so many seconds, tell the others to come back."""
        self.services.is_stopping = True
        if self._server:
            self._server.close()
        for session in list(self.services.sessions):
            session.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.services.sessions or self.services.pending:  # noqa: ASYNC110 - a bounded wait at the very end
                    await asyncio.sleep(0.02)
        log.info("gateway_stopped unfinished=%d", len(self.services.sessions))
        for session in list(self.services.sessions):
            session.cut()
        await end_all(self._tasks)
        await self.callout.close()
        await asyncio.sleep(0)  # for the sessions that were cut
        self.services.ledger.close()
        await self.store.close()
        await self.directory.close()
        await self.pool.close()
        await self.store_pool.close()
        self.examiners.close()


def fit_to_files(limits: Limits) -> tuple[Limits, int]:
    """No more connections than there are files to be had, and how many call-outs: so one too many is told 421, not just
    cut off, and no server is thought to be down for want of a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return limits, CONVERSATIONS
    free = hard - OWN_FILES
    conversations = max(min(CONVERSATIONS, free // CALLOUT_PART // CONVERSATION_FILES), 1)
    connections = (free - conversations * CONVERSATION_FILES) // SESSION_FILES
    return replace(limits, connections=max(min(limits.connections, connections), 1)), conversations


def make_limits() -> Limits:
    """With those that an operator may set."""
    return Limits(
        message_octets=settings.MAX_MESSAGE_BYTES,
        recipients=settings.MAX_RECIPIENTS,
        connections=settings.MAX_CONNECTIONS,
        client_connections=settings.MAX_CLIENT_CONNECTIONS,
    )


def make_tls_context() -> ssl.SSLContext | None:
    """What STARTTLS is done with; None where no certificate is configured."""
    if not settings.SMTP_TLS_CERTIFICATE:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.SMTP_TLS_CERTIFICATE, settings.SMTP_TLS_KEY)
    return context


async def serve(host: str, port: int, *, place: str = "") -> None:
    """Run a gateway until SIGTERM or SIGINT. Raises DurabilityError where PostgreSQL may lose what it confirms."""
    gateway, stopped = Gateway(place=place), asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    await gateway.start(host, port)
    waiting = asyncio.create_task(stopped.wait())
    watching = asyncio.create_task(end_when_broken(gateway, stopped))
    ready = asyncio.create_task(gateway.wait_until_ready())
    done, _ = await asyncio.wait({waiting, ready}, return_when=asyncio.FIRST_COMPLETED)
    failure = ready.exception() if ready in done else None
    if failure is None:
        await waiting
    watching.cancel()
    await gateway.stop()
    if failure:
        raise failure


async def end_when_broken(gateway: Gateway, stopped: asyncio.Event) -> None:
    """Nothing can be examined any more, or a part of the gateway has ended: whoever started us starts us anew."""
    while not (gateway.examiners.are_stuck or gateway.ended_parts):  # noqa: ASYNC110 - threads tell nobody that they hang
        await asyncio.sleep(1)
    log.critical("gateway_broken examiners_stuck=%s ended=%s", gateway.examiners.are_stuck, gateway.ended_parts)
    stopped.set()
