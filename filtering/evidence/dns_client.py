"""Questions to name servers as they go over the wire (RFC 1035): UDP, and TCP where an answer is cut short.

dnspython's own asynchronous resolver costs four times the processor time; it reads here what is not plain.
An answer counts only if it comes from the server that was asked to the port that asked (a connected socket for each
question, on a port that the kernel draws), with the number drawn for the question, and repeats the question (RFC 5452).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver

from filtering.evidence.dns_wire import PlainAnswer, read_plain_answer, write_name

DNS_PORT = 53
SERVER_SECONDS = 1.5  # for one answer of one server, before the next is asked; twice that the second time
ILL_SECONDS = 30.0  # that a server which gave no answer is asked last
MAX_UDP_OCTETS = 1232  # DNS flag day 2020: fits every path without fragments
READ_OCTETS = 4096
MAX_RECORDS = 12  # of an answer that are read: ten names and the aliases before them
MAX_AUTHORITY = 4
MAX_ADDITIONAL = 4

_FLAGS_AND_COUNTS = struct.pack("!HHHHH", 0x0100, 1, 0, 0, 1)  # recursion desired; one question, one OPT
_EDNS = struct.pack("!BHHIH", 0, dns.rdatatype.OPT, MAX_UDP_OCTETS, 0, 0)  # RFC 6891 6.1.2
_TRUNCATED = 0x02
_RESPONSE = 0x80
_FAILURES = {dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED}

Server = tuple[str, int]


class NoAnswerError(Exception):
    """No server said anything; the text says why in a few safe words, such as SERVFAIL, REFUSED or timeout."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said: records, or else a message with NOERROR or NXDOMAIN."""

    said: PlainAnswer | dns.message.QueryMessage
    server: Server


def make_question(name: str | dns.name.Name, kind: dns.rdatatype.RdataType) -> bytes:
    """A question as it goes over the wire. Raises DNSException for what can be no name."""
    wire = write_name(name) if isinstance(name, str) else None
    if wire is None:
        wire = (dns.name.from_text(name) if isinstance(name, str) else name).to_wire() or b""
    return wire + struct.pack("!HH", kind, 1)


class DnsClient:
    """Asks the servers in turn, those that were well first. Keeps nothing but who was ill."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = tuple(servers)
        self._ill_until: dict[Server, float] = {}

    async def ask(self, question: bytes, *, seconds: float, only: Server | None = None) -> Reply:
        """The reply of the first server that has one. Raises NoAnswerError, at the latest after so many seconds.

        A server that is silent is asked again while there is time, with more patience; one that fails is not.
        """
        ends = time.monotonic() + seconds
        servers = [only] if only else self._list_servers()
        reason = "timeout" if servers else "no resolver"
        patience = 0.0
        while servers:
            patience += SERVER_SECONDS
            for server in list(servers):
                if (left := ends - time.monotonic()) <= 0:
                    raise NoAnswerError(reason)
                try:
                    said = await _ask_server(server, question, min(patience, left))
                except TimeoutError:
                    reason = "timeout"
                except OSError:
                    reason = "unreachable"
                    servers.remove(server)
                except NoAnswerError as error:
                    reason = str(error)
                    servers.remove(server)
                else:
                    self._ill_until.pop(server, None)
                    return Reply(said, server)
                self._ill_until[server] = time.monotonic() + ILL_SECONDS
        raise NoAnswerError(reason)

    def _list_servers(self) -> list[Server]:
        now = time.monotonic()
        return sorted(self.servers, key=lambda server: self._ill_until.get(server, 0.0) > now)


async def _ask_server(server: Server, question: bytes, seconds: float) -> PlainAnswer | dns.message.QueryMessage:
    query = os.urandom(2) + _FLAGS_AND_COUNTS + question + _EDNS
    ends = time.monotonic() + seconds
    wire = await _ask_over_udp(server, query, question, seconds)
    if wire[2] & _TRUNCATED:
        wire = await _retry_over_tcp(server, query, question, ends - time.monotonic())
    return read_plain_answer(wire, question, limit=MAX_RECORDS) or _read(wire)


async def _ask_over_udp(server: Server, query: bytes, question: bytes, seconds: float) -> bytes:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        try:
            wire = asking.recv(READ_OCTETS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            _end(answer, error)
        else:
            if not answer.done() and _is_answer(wire, query, question):
                answer.set_result(wire)

    with socket.socket(_get_family(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asking:
        asking.connect(server)
        asking.send(query)
        loop.add_reader(asking, read)
        patience = loop.call_later(seconds, _end, answer, TimeoutError())
        try:
            return await answer
        finally:
            patience.cancel()
            loop.remove_reader(asking)


def _end(answer: asyncio.Future[bytes], error: OSError) -> None:
    if not answer.done():
        answer.set_exception(error)


async def _retry_over_tcp(server: Server, query: bytes, question: bytes, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            wire = await _ask_over_tcp(server, query)
    except (OSError, TimeoutError) as error:
        raise NoAnswerError("truncated") from error
    if not _is_answer(wire, query, question) or wire[2] & _TRUNCATED:
        raise NoAnswerError("truncated")
    return wire


async def _ask_over_tcp(server: Server, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(_get_family(server), socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        await loop.sock_connect(asking, server)
        await loop.sock_sendall(asking, struct.pack("!H", len(query)) + query)
        (length,) = struct.unpack("!H", await _receive(asking, 2))
        return await _receive(asking, length)


async def _receive(asking: socket.socket, octets: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < octets:
        if not (piece := await loop.sock_recv(asking, octets - len(found))):
            raise ConnectionResetError
        found += piece
    return found


def _get_family(server: Server) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in server[0] else socket.AF_INET


def _is_answer(wire: bytes, query: bytes, question: bytes) -> bool:
    """Whether it answers this question; the number matches and the question is repeated, be it in other letters.

    A server that fails may leave the question out (RFC 6895 2.1): then the number has to do.
    """
    if len(wire) < 12 or wire[:2] != query[:2] or not wire[2] & _RESPONSE:
        return False
    if wire[4:6] == b"\0\0":
        return wire[3] & 15 in _FAILURES
    return wire[12 : 12 + len(question)].lower() == question.lower()


def _bound(wire: bytes) -> bytes:
    """The same with no more records than are looked at: what a stranger's zone holds costs time on the event loop.

    Raises NoAnswerError where there is more beside than an absence (an SOA record, EDNS) ever needs.
    """
    questions, answers, authority, more = struct.unpack("!HHHH", wire[4:12])
    if questions > 1 or (not answers and (authority > MAX_AUTHORITY or more > MAX_ADDITIONAL)):
        raise NoAnswerError("malformed answer")
    if not answers:
        return wire
    # An alias may end at an absence: then the zone's SOA record says how long that counts.
    is_whole = answers <= MAX_RECORDS and authority <= MAX_AUTHORITY
    return wire[:6] + struct.pack("!HHH", min(answers, MAX_RECORDS), authority if is_whole else 0, 0) + wire[12:]


def _read(wire: bytes) -> dns.message.QueryMessage:
    try:
        message = dns.message.from_wire(_bound(wire), ignore_trailing=True)
    except (dns.exception.DNSException, ValueError) as error:
        raise NoAnswerError("malformed answer") from error
    if message.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        raise NoAnswerError(dns.rcode.to_text(message.rcode()))
    if not isinstance(message, dns.message.QueryMessage):
        raise NoAnswerError("malformed answer")
    if _is_referral(message):
        raise NoAnswerError("lame delegation")
    return message


def _is_referral(message: dns.message.QueryMessage) -> bool:
    """Whether it only names other servers, which a resolver that does its work never does (a lame delegation)."""
    kinds = {records.rdtype for records in message.authority}
    is_empty = not message.answer and message.rcode() == dns.rcode.NOERROR and not message.flags & dns.flags.AA
    return is_empty and dns.rdatatype.NS in kinds and dns.rdatatype.SOA not in kinds


def list_system_servers() -> list[Server]:
    """The servers that the system itself asks (resolv.conf, read once)."""
    try:
        return [(str(server), DNS_PORT) for server in dns.resolver.Resolver().nameservers]
    except (dns.exception.DNSException, OSError):
        return []
