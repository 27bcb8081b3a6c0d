"""The demo's world as one process: the customers' mail server and the name server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from pathlib import Path

from django.conf import settings
from django.db import Error, connection

from portal.settings.environment import Address
from portal.stack.demo.cast import DOMAINS
from portal.stack.demo.maildir import Maildirs
from portal.stack.demo.nameserver import NameServer, list_system_resolvers
from portal.stack.demo.sink import start_sink
from portal.stack.process import StackError
from portal.tenants.models import MailDomain

logger = logging.getLogger(__name__)


def get_folder() -> Path:
    return Path(settings.HOME) / "demo"


def get_maildirs(domains: tuple[str, ...] | None = None) -> Maildirs:
    """What arrived for these domains; for any, also one that somebody adds in the demo."""
    return Maildirs(get_folder() / "mail", domains)


def find_sink() -> Address:
    """Where the demo's mail server listens: as it wrote down itself, else as it is set."""
    path = get_folder() / "sink"
    if path.is_file():
        host, _, port = path.read_text().strip().rpartition(":")
        if host and port.isdigit():
            return Address(host, int(port))
    wanted: Address = settings.DEMO_SINK
    return wanted


async def run_world() -> None:
    """Serve until SIGTERM or SIGINT. StackError where the name server's port is taken."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = NameServer(find_nameserver(), upstream=settings.DEMO_UPSTREAM or list_system_resolvers())
    try:
        await server.start()
    except OSError:
        raise StackError(f"The demo's name server cannot listen on {server.address}: the port is taken.") from None
    listener = open_listener(settings.DEMO_SINK)
    address = Address(*listener.getsockname()[:2])
    sink = await start_sink(get_maildirs(), listener=listener, max_bytes=settings.MAX_MESSAGE_BYTES + 65_536)
    await asyncio.to_thread(announce, address)
    logger.info("demo.ready sink=%s dns=%s", address, server.address)
    await stopped.wait()
    sink.close()
    await server.stop()


def find_nameserver() -> Address:
    """The demo's gateway asks one resolver on loopback: us."""
    resolvers = [address for address in settings.RESOLVERS if address.host.startswith("127.")]
    if not resolvers:
        raise StackError("LAZARET_DNS must name the demo's name server on loopback, such as 127.0.0.1:2527.")
    found: Address = resolvers[0]
    return found


def open_listener(wanted: Address) -> socket.socket:
    """The port wanted, or a free one where it is taken."""
    try:
        return socket.create_server((wanted.host, wanted.port))
    except OSError:
        return socket.create_server((wanted.host, 0))


def announce(address: Address) -> None:
    """Write the mail server's address down, and send the demo's domains after it where it moved."""
    before = find_sink()
    get_folder().mkdir(parents=True, exist_ok=True)
    (get_folder() / "sink").write_text(f"{address}\n")
    if before == address:
        return
    try:
        moved = MailDomain.objects.filter(name__in=DOMAINS, server_host=before.host, server_port=before.port)
        moved.update(server_host=address.host, server_port=address.port)
    except Error as error:
        logger.warning("demo.not_moved error=%s", type(error).__name__)
    finally:
        connection.close()
