"""A gateway on loopback in a thread of its own, and a client that speaks SMTP line by line."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset
import uvloop
from django.test import override_settings

from portal.settings.environment import Address
from quarantine.gateway.limits import Limits
from quarantine.gateway.server import Gateway
from tests.running_courier import wait_until

WAIT_SECONDS = 30
SIGNATURE = re.compile(r" \(trace ([0-9A-Z]{20})\)$")


class RunningGateway:
    """The gateway, its port, and a way into its event loop."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        self.gateway = gateway
        self.services = gateway.services
        self.port = gateway.port
        self.loop = loop

    def settle(self) -> None:
        """Wait until clients that have gone are forgotten, and what is told of them is written."""
        wait_until(lambda: not self.services.sessions and not self.services.pending)
        self.loop.call_soon_threadsafe(self.services.ledger.close)
        self.run(asyncio.sleep(0))
        wait_until(lambda: not self.gateway.store.notes)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_SECONDS)

    def wait_for_change(self, address: str, is_known: Callable[[Any], bool]) -> None:
        """Wait until the directory has heard of a change, by what it finds for an address."""

        async def hear() -> None:
            while not is_known(await self.gateway.directory.find(address)):  # noqa: ASYNC110 - nothing says when
                await asyncio.sleep(0.01)

        self.run(hear())

    def connect(self, *, greeting: bool = True, source: str = "127.0.0.1", early: bytes = b"") -> Client:
        client = Client(self.port, source=source, early=early)
        if greeting:
            assert client.read_reply().startswith("220 ")
        return client

    def open(self, ip: str = "", helo: str = "client.test") -> Client:
        """A session that has said EHLO, for the client with this address."""
        client = self.connect()
        if ip:
            assert client.ask(f"XCLIENT ADDR={ip}").startswith("220 ")
        assert client.ask(f"EHLO {helo}").startswith("250")
        return client


class Client:
    """A blocking SMTP client that hides nothing but the trace id at the end of an error: that is in `trace_id`."""

    def __init__(self, port: int, *, source: str = "127.0.0.1", early: bytes = b"") -> None:
        """`early` is sent before anything is read."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS, source_address=(source, 0))
        self.socket.sendall(early)
        self.stream = self.socket.makefile("rb")
        self.trace_id = ""  # of the last reply, where it told one

    def send(self, octets: bytes) -> None:
        self.socket.sendall(octets)

    def read_line(self) -> str:
        return self.stream.readline().decode("ascii").rstrip("\r\n")

    def read_reply(self) -> str:
        """One reply; the lines of a longer one are joined by line feeds. Empty: the server hung up."""
        lines = [self.read_line()]
        while lines[-1][3:4] == "-":
            lines.append(self.read_line())
        signed = SIGNATURE.search(lines[-1])
        self.trace_id = signed.group(1) if signed else ""
        return "\n".join([*lines[:-1], SIGNATURE.sub("", lines[-1])])

    def ask(self, command: str | bytes) -> str:
        self.send((command.encode() if isinstance(command, str) else command) + b"\r\n")
        return self.read_reply()

    def talk(self, *commands: str | bytes) -> list[str]:
        return [self.ask(command) for command in commands]

    def mail(self, sender: str = "ann@sender.test", *recipients: str, data: bytes) -> str:
        """A whole message; returns the last reply."""
        assert self.ask(f"MAIL FROM:<{sender}>").startswith("250 ")
        for recipient in recipients or ("bob@alpha.test",):
            assert self.ask(f"RCPT TO:<{recipient}>").startswith("250 ")
        assert self.ask("DATA").startswith("354 ")
        return self.send_data(data)

    def send_data(self, data: bytes) -> str:
        self.send(stuff(data) + b".\r\n")
        return self.read_reply()

    def start_tls(self) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.stream.close()
        self.socket = context.wrap_socket(self.socket)
        self.stream = self.socket.makefile("rb")
        return str(self.socket.version())

    def is_closed(self) -> bool:
        return self.stream.read(1) == b""

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def stuff(data: bytes) -> bytes:
    """Dot-stuffed, as a careful client does it: a dot that begins a line is doubled."""
    return (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]


def trickle(client: Client) -> str:
    """Send an octet at a time until there is a reply."""
    is_over = threading.Event()
    reply: list[str] = []
    reader = threading.Thread(target=lambda: (reply.append(client.read_reply()), is_over.set()))
    reader.start()
    for _ in range(500):
        if is_over.wait(0.02):
            break
        client.send(b"x")
    reader.join()
    return reply[0]


class NameServer:
    """DNS on loopback: `names` are PTR names by client address; None is SERVFAIL, what is not there NXDOMAIN."""

    def __init__(self) -> None:
        self.names: dict[str, str | None] = {}
        self.questions: list[str] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, name="dns")
        self.thread.start()

    def _serve(self) -> None:
        while True:
            wire, client = self.socket.recvfrom(4096)
            if not wire:
                return
            self.socket.sendto(self._answer(dns.message.from_wire(wire)).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        name, kind = query.question[0].name, query.question[0].rdtype
        self.questions.append(name.to_text())
        if kind == dns.rdatatype.SOA:
            answer: str | None = "ns.test. root.test. 1 2 3 4 60"
        elif kind == dns.rdatatype.PTR:
            found = self.names.get(dns.reversename.to_address(name), "")
            answer = found and found + "."
        else:
            answer = next((ip for ip, found in self.names.items() if found and name.to_text() == f"{found}."), "")
        if answer:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, answer))
        else:
            response.set_rcode(dns.rcode.SERVFAIL if answer is None else dns.rcode.NXDOMAIN)
        return response

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join()
        self.socket.close()


@contextmanager
def run_name_server() -> Iterator[NameServer]:
    server = NameServer()
    try:
        with override_settings(RESOLVERS=(Address("127.0.0.1", server.port),)):
            yield server
    finally:
        server.stop()


RUNNING: list[RunningGateway] = []
STOPPED: list[RunningGateway] = []  # since the database was wiped last


@contextmanager
def run_gateway(*, limits: Limits | None = None, wait: bool = True, port: int = 0) -> Iterator[RunningGateway]:
    """A gateway with the settings as they are; XCLIENT is believed from loopback. `port` may be another one's."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway")
    thread.start()

    async def start() -> Gateway:
        gateway = Gateway(limits=limits)
        gateway.services.trusted_networks = ("127.0.0.1/32",)
        await gateway.start("127.0.0.1", port)
        if wait:
            async with asyncio.timeout(WAIT_SECONDS):
                await gateway.wait_until_ready()
                await gateway.directory.listening.wait()
        return gateway

    try:
        gateway = asyncio.run_coroutine_threadsafe(start(), loop).result(WAIT_SECONDS)
        running = RunningGateway(gateway, loop)
        RUNNING.append(running)
        try:
            yield running
        finally:
            RUNNING.remove(running)
            running.run(gateway.stop(2))
            STOPPED.append(running)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
