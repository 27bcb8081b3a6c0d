"""A little DNS server on loopback, over UDP and TCP, with scripted answers: for tests of whatever asks DNS.

    with DnsServer() as server:
        server.add("192.0.2.1", "mail.example.test")          # PTR, and the name's address back
        server.answer("host.example.test", "A", "192.0.2.7")  # any record
        server.answer("broken.test", "A", rcode="SERVFAIL")   # also NXDOMAIN, REFUSED, DROP, GARBAGE,
                                                              # TRUNCATED (no TCP), TRUNCATED_UDP (whole over TCP)
        server.answer("late.test", "A", "192.0.2.7", delay=2)
        server.answer("host.test", "A", forged="192.0.2.66", forged_by="id")   # a lie before the truth
        Resolver([server.address])

What was not scripted is NXDOMAIN, but for the SOA of in-addr.arpa, by which resolvers are tried; `asked` leaves it out.
A name with other types only is answered empty (NODATA).
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

TTL_SECONDS = 60
POLL_SECONDS = 0.02
CONTROL = ("in-addr.arpa", "SOA")
Key = tuple[str, str]


@dataclass
class Script:
    """What is answered to one question."""

    records: list[str] = field(default_factory=list)
    rcode: str = "NOERROR"
    ttl: int = TTL_SECONDS
    authority: str = ""  # a record such as "example.test. 60 IN NS ns.example.test."
    owner: str = ""  # of the records, where an alias leads there
    beside: str = ""  # a whole record that is in the answer as well, with its class
    delay: float = 0.0  # seconds
    forged: str = ""  # a record that somebody else answers first, over UDP
    forged_by: str = ""  # what is wrong with that answer: its id, question or source


class DnsServer:
    """Answers as it is told, on a port of its own. `asked` lists the questions in order."""

    def __init__(self, port: int = 0) -> None:
        self.scripts: dict[Key, Script] = {CONTROL: Script(["ns.test. root.test. 1 2 3 4 60"])}
        self.default = "NXDOMAIN"  # for what is not scripted
        self.everything = ""  # an rcode, DROP or GARBAGE for all questions, whatever is scripted
        self.delay = 0.0  # seconds before any answer
        self.asked: list[Key] = []
        self.controls = 0
        self._udp, self._tcp = _make_pair(self, port)
        self._threads = [
            threading.Thread(target=one.serve_forever, args=(POLL_SECONDS,), daemon=True)
            for one in (self._udp, self._tcp)
        ]

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._udp.server_address[1]

    def add(self, ip: str, *names: str) -> None:
        """Give the address these names, and let each lead back to it."""
        self.answer(dns.reversename.from_address(ip).to_text(), "PTR", *(f"{name}." for name in names))
        for name in names:
            self.answer(name, "AAAA" if ":" in ip else "A", ip)

    def answer(self, name: str, kind: str, *records: str, rcode: str = "NOERROR", **more: object) -> None:
        self.scripts[_normalise(name), kind] = Script(list(records), rcode, **more)  # type: ignore[arg-type]

    def answer_reverse(self, ip: str, *records: str, rcode: str = "NOERROR", **more: object) -> None:
        self.answer(dns.reversename.from_address(ip).to_text(), "PTR", *records, rcode=rcode, **more)

    def start(self) -> DnsServer:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()

    def __enter__(self) -> DnsServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.stop()

    def reply(self, wire: bytes, *, over_tcp: bool) -> bytes | None:
        """The answer to a question, None for silence."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        key = _get_key(query)
        self._count(key)
        script = self._find(key)
        rcode = self.everything or script.rcode
        time.sleep(self.delay or script.delay)
        if rcode == "DROP":
            return None
        if rcode == "GARBAGE":
            return wire[:2] + b"\x81" + b"\xff" * 20
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if rcode == "TRUNCATED" and over_tcp:
            return None
        if rcode.startswith("TRUNCATED") and not over_tcp:
            response.flags |= dns.flags.TC
            return response.to_wire()
        response.set_rcode(dns.rcode.from_text(rcode if rcode in dns.rcode.Rcode.__members__ else "NOERROR"))
        self._fill(response, question, key, script)
        return _to_wire(query, response, over_tcp=over_tcp)

    def forge(self, wire: bytes) -> tuple[bytes, str] | None:
        """What somebody else answers to the question, and what is wrong with it."""
        query = dns.message.from_wire(wire)
        script = self._find(_get_key(query))
        if not script.forged or self.everything:
            return None
        response = dns.message.make_response(query)
        question = query.question[0]
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", question.rdtype, script.forged))
        if script.forged_by == "id":
            response.id ^= 1
        if script.forged_by == "question":
            response.question[0].name = dns.name.from_text("other.test.")
        return response.to_wire(), script.forged_by

    def _count(self, key: Key) -> None:
        if key == CONTROL:
            self.controls += 1
        else:
            self.asked.append(key)

    def _fill(self, response: dns.message.Message, question: dns.rrset.RRset, key: Key, script: Script) -> None:
        name, kind, ttl = question.name, key[1], script.ttl
        alias = self.scripts.get((key[0], "CNAME"))
        if alias is not None and kind != "CNAME":
            response.answer.append(dns.rrset.from_text(name, alias.ttl, "IN", "CNAME", *alias.records))
        if script.records and (alias is None or script.owner):
            name = dns.name.from_text(script.owner) if script.owner else name
            response.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, *script.records))
        for section, record in ((response.answer, script.beside), (response.authority, script.authority)):
            if record:
                owner, seconds, *rest = record.split()
                section.append(dns.rrset.from_text(owner, int(seconds), *rest[:2], " ".join(rest[2:])))

    def _find(self, key: Key) -> Script:
        if (script := self.scripts.get(key)) is not None:
            return script
        exists = any(name == key[0] for name, _ in self.scripts)
        return Script(rcode="NOERROR" if exists else self.default)


def _to_wire(query: dns.message.Message, response: dns.message.Message, *, over_tcp: bool) -> bytes:
    """The octets; an answer that UDP has no room for is cut, and asked for again over TCP."""
    if over_tcp:
        return response.to_wire(max_size=65535)
    try:
        return response.to_wire()
    except dns.exception.TooBig:
        short = dns.message.make_response(query)
        short.flags |= dns.flags.TC
        return short.to_wire()


def _get_key(query: dns.message.Message) -> Key:
    question = query.question[0]
    return _normalise(question.name.to_text()), dns.rdatatype.to_text(question.rdtype)


def _normalise(name: str) -> str:
    return name.rstrip(".").lower()


def _make_pair(owner: DnsServer, port: int) -> tuple[socketserver.BaseServer, socketserver.BaseServer]:
    """UDP and TCP on one port. A port that is free for the one may be taken for the other: then on the next."""
    for _ in range(50):
        udp = _make_server(socketserver.ThreadingUDPServer, _UdpHandler, port, owner)
        try:
            return udp, _make_server(socketserver.ThreadingTCPServer, _TcpHandler, udp.server_address[1], owner)
        except OSError:
            udp.server_close()
            time.sleep(0.1 if port else 0)  # until whoever has it lets go
    raise OSError("no port is free for both UDP and TCP")


def _make_server(kind: type, handler: type, port: int, owner: DnsServer) -> socketserver.BaseServer:
    kind = type("Server", (kind,), {"allow_reuse_address": True, "daemon_threads": True, "owner": owner})
    return kind(("127.0.0.1", port), handler)  # type: ignore[no-any-return]


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, listening = self.request
        with contextlib.suppress(Exception):  # what is no question gets no answer
            if forged := self.server.owner.forge(wire):
                self.lie(*forged)
            if (answer := self.server.owner.reply(wire, over_tcp=False)) is not None:
                listening.sendto(answer, self.client_address)

    def lie(self, answer: bytes, forged_by: str) -> None:
        if forged_by == "source":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(answer, self.client_address)
        else:
            self.request[1].sendto(answer, self.client_address)


class _TcpHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(Exception):
            length = int.from_bytes(self.request.recv(2), "big")
            answer = self.server.owner.reply(self.request.recv(length), over_tcp=True)
            if answer is not None:
                self.request.sendall(len(answer).to_bytes(2, "big") + answer)
