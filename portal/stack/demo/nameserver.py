"""The demo's name server on loopback: answers for its own zones, asks other resolvers for the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.resolver

from portal.settings.environment import Address
from portal.stack.demo import zone

logger = logging.getLogger(__name__)
UPSTREAM_SECONDS = 3
MAX_FORWARDED = 100  # questions passed on at once; more are SERVFAIL
TCP_SECONDS = 10
DNS_PORT = 53


class NameServer:
    """Serves UDP and TCP on one port. A question that cannot be read gets no answer."""

    def __init__(self, address: Address, *, upstream: Iterable[Address]) -> None:
        self.address = address
        self.upstream = [resolver for resolver in upstream if resolver != address]  # it would ask itself for ever
        self.forwarded = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.transport: asyncio.DatagramTransport | None = None
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        local = (self.address.host, self.address.port)
        self.transport, _ = await loop.create_datagram_endpoint(lambda: Datagrams(self), local_addr=local)
        self.server = await asyncio.start_server(self.serve_stream, *local)

    async def stop(self) -> None:
        if self.transport:
            self.transport.close()
        if self.server:
            self.server.close()
        for task in list(self.tasks):
            task.cancel()

    async def reply(self, wire: bytes, *, max_size: int) -> bytes:
        """The reply's octets; empty where the question cannot be read."""
        try:
            query = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError):
            return b""
        if query.flags & dns.flags.QR or len(query.question) != 1:
            return b""
        response = zone.answer(query) if zone.is_ours(query.question[0].name) else await self.forward(query)
        if max_size < 65535:
            max_size = min(max(query.payload, 512), 4096)
        try:
            return response.to_wire(max_size=max_size)
        except dns.exception.TooBig:
            shortened = dns.message.make_response(query, recursion_available=True)
            shortened.flags |= dns.flags.TC
            return shortened.to_wire()

    async def forward(self, query: dns.message.Message) -> dns.message.Message:
        if self.forwarded < MAX_FORWARDED:
            self.forwarded += 1
            try:
                for resolver in self.upstream:
                    with suppress(dns.exception.DNSException, OSError):
                        response, _ = await dns.asyncquery.udp_with_fallback(
                            query, resolver.host, timeout=UPSTREAM_SECONDS, port=resolver.port
                        )
                        return response
            finally:
                self.forwarded -= 1
        failure = dns.message.make_response(query, recursion_available=True)
        failure.set_rcode(dns.rcode.SERVFAIL)
        return failure

    async def answer_datagram(self, wire: bytes, sender: tuple[str, int]) -> None:
        response = await self.reply(wire, max_size=0)
        if response and self.transport and not self.transport.is_closing():
            self.transport.sendto(response, sender)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            while True:
                async with asyncio.timeout(TCP_SECONDS):
                    wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    response = await self.reply(wire, max_size=65535)
                    if not response:
                        break
                    writer.write(len(response).to_bytes(2, "big") + response)
                    await writer.drain()
        writer.close()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self.server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self.server.answer_datagram(data, addr))
        self.server.tasks.add(task)
        task.add_done_callback(self.server.tasks.discard)


def list_system_resolvers() -> list[Address]:
    try:
        return [Address(str(host), DNS_PORT) for host in dns.resolver.Resolver().nameservers][:3]
    except dns.exception.DNSException:
        return []
