"""One gateway process: listens, waits for PostgreSQL, ends in order. Several share the port by SO_REUSEPORT."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import psycopg
from django.conf import settings

from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver
from filtering.learning.classifier import Classifier, get_model_path
from portal.tenants.database import make_pool
from portal.tenants.directory import Directory
from quarantine.delivery.callout import Callout
from quarantine.gateway.limits import Limits
from quarantine.gateway.recipients import RecipientFinder
from quarantine.gateway.services import Services
from quarantine.gateway.session import Session
from quarantine.intake import Intake
from quarantine.locks import LOCK_SECONDS
from quarantine.platform.heartbeat import keep_beating
from quarantine.store import STATEMENT_SECONDS, Store

log = logging.getLogger(__name__)

PART = "gateway"
DRAIN_SECONDS = 30.0
RETRY_SECONDS = 1.0
POOL_SIZE = 8
THREADS = 4
BACKLOG = 1024


class Gateway:
    """Everything of a gateway process. Made and used inside one event loop: `start`, `serve`, `stop`."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self.pool = make_pool(
            name=PART, max_size=POOL_SIZE, statement_seconds=STATEMENT_SECONDS, lock_seconds=LOCK_SECONDS
        )
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="intake")
        self.directory = Directory(self.pool, hostname=settings.SMTP_HOSTNAME)
        self.callout = Callout(hostname=settings.SMTP_HOSTNAME)
        self.store = Store(self.pool, instance=get_instance())
        self.resolver = Resolver([(address.host, address.port) for address in settings.RESOLVERS])
        classifier = Classifier.load(get_model_path())
        intake = Intake(
            self.pool, self.directory, self.store, classifier, self.executor, hostname=settings.SMTP_HOSTNAME
        )
        self.services = Services(
            hostname=settings.SMTP_HOSTNAME,
            recipients=RecipientFinder(self.directory, self.callout),
            intake=intake,
            look_up_ptr=functools.partial(look_up_ptr, resolver=self.resolver),
            limits=limits or Limits(message_octets=settings.MAX_MESSAGE_BYTES),
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
        """Listen, and get ready as soon as PostgreSQL answers; until then clients are told 421."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Session(self.services), host, port, reuse_port=True, backlog=BACKLOG
        )
        await self.pool.open(wait=False)
        await self.directory.start()
        work = (self._get_ready(), self._beat(), self.resolver.watch())
        self._tasks = [asyncio.create_task(part) for part in work]

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
        self.services.is_ready = True
        log.info("gateway_ready instance=%s", get_instance())

    async def _beat(self) -> None:
        """Show signs of life once there is something alive to show."""
        await self.wait_until_ready()
        await keep_beating(self.pool, PART, get_instance())

    async def stop(self, seconds: float = DRAIN_SECONDS) -> None:
        """Listen no more, let what is under way end within so many seconds, tell the others to come back."""
        self.services.is_stopping = True
        if self._server:
            self._server.close()
        for session in list(self.services.sessions):
            session.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.services.sessions:  # noqa: ASYNC110 - a bounded wait at the very end
                    await asyncio.sleep(0.02)
        log.info("gateway_stopped unfinished=%d", len(self.services.sessions))
        for session in list(self.services.sessions):
            session.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.callout.close()
        await self.store.close()
        await self.directory.close()
        await self.pool.close()
        self.executor.shutdown(wait=False, cancel_futures=True)


def get_instance() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"[-64:]


def make_tls_context() -> ssl.SSLContext | None:
    """What STARTTLS is done with; None where no certificate is configured."""
    if not settings.SMTP_TLS_CERTIFICATE:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.SMTP_TLS_CERTIFICATE, settings.SMTP_TLS_KEY)
    return context


async def serve(host: str, port: int) -> None:
    """Run a gateway until SIGTERM or SIGINT. Raises DurabilityError where PostgreSQL may lose what it confirms."""
    gateway = Gateway()
    await gateway.start(host, port)
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    waiting = asyncio.create_task(stopped.wait())
    ready = asyncio.create_task(gateway.wait_until_ready())
    done, _ = await asyncio.wait({waiting, ready}, return_when=asyncio.FIRST_COMPLETED)
    failure = ready.exception() if ready in done else None
    if failure is None:
        await waiting
    await gateway.stop()
    if failure:
        raise failure
