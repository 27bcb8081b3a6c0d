"""A sender of mail that costs little: processes with raw sockets and messages that were encoded before.

Every message goes as one transaction: MAIL, RCPT and DATA in one segment (RFC 2920), as Postfix sends them, then the
content, then its reply is awaited.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import re
import secrets
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

LINE_END = re.compile(rb"\r\n|\r|\n")
FIRST_CLIENT = 11 << 24  # 11.0.0.0, a network that is not private; only loopback hears of it
READ_OCTETS = 65536
PATIENCE_SECONDS = 120.0  # without a word from the server, in all sessions of a process
LOST = "lost"


@dataclass(frozen=True)
class Plan:
    """What is sent, and how. A message is its octets as they go over the wire, end and all."""

    host: str
    port: int
    recipients: tuple[str, ...]
    sessions: int = 20
    processes: int = 1
    messages_per_connection: int = 100
    recipients_per_message: int = 1
    clients: int = 0  # so many addresses, another for each connection; 0: this machine's only
    local_clients: bool = False  # the addresses are connected from; else they are stated by XCLIENT


@dataclass
class Result:
    """What the sessions saw."""

    messages: int = 0
    octets: int = 0
    wall: float = 0.0  # seconds, from the first connection to the last reply
    cpu: float = 0.0  # seconds of processor time that the sender used
    waits: list[float] = field(default_factory=list)  # seconds from the last octet of a message to its reply
    wholes: list[float] = field(default_factory=list)  # seconds from MAIL to the final reply
    replies: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return self.messages / self.wall if self.wall else 0.0


def make_wire(raw: bytes) -> bytes:
    """CRLF, no mbox line, dot-stuffed, with the end mark."""
    raw = LINE_END.sub(b"\r\n", raw)
    if raw.startswith((b"From ", b">From ")):
        raw = raw.partition(b"\r\n")[2]
    stuffed = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n..")[2:]
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


def send_all(plan: Plan, messages: Sequence[bytes], count: int) -> Result:
    """Send `count` messages, beginning anew where there are fewer, and wait for the last reply. Raises OSError where
    nobody listens or answers."""
    context = multiprocessing.get_context("fork")  # the messages are there already
    pipes, workers = [], []
    began = time.monotonic()
    for number in range(plan.processes):
        pipe, other = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(plan, messages, count, number, other))
        worker.start()
        other.close()
        pipes.append(pipe)
        workers.append(worker)
    parts = [pipe.recv() for pipe in pipes]
    result = Result(wall=time.monotonic() - began)
    for part in parts:
        if isinstance(part, OSError):
            raise part
        _add(result, part)
    for worker in workers:
        worker.join()
    return result


def _add(result: Result, part: Result) -> None:
    result.messages += part.messages
    result.octets += part.octets
    result.cpu += part.cpu
    result.waits += part.waits
    result.wholes += part.wholes
    result.replies += part.replies


def _work(plan: Plan, messages: Sequence[bytes], count: int, number: int, pipe: Connection) -> None:
    """One process: its share of the sessions, and of the messages."""
    began = time.process_time()
    work = (messages[i % len(messages)] for i in range(number, count, plan.processes))
    sessions = len(range(number, plan.sessions, plan.processes))
    loop = Loop(plan, work, envelopes=_make_envelopes(plan), clients=_name_clients(plan, number))
    try:
        loop.run(sessions)
        loop.result.cpu = time.process_time() - began
        pipe.send(loop.result)
    except OSError as error:
        pipe.send(error)


def _make_envelopes(plan: Plan) -> Iterator[bytes]:
    """MAIL, RCPT and DATA; the recipients in turn. Each has a sender of its own: what is sent twice, in this run or the
    next, is another message, and not one that a server may recognise.
    """
    made = []
    for start in range(len(plan.recipients)):
        chosen = itertools.islice(itertools.cycle(plan.recipients), start, start + plan.recipients_per_message)
        made.append("".join(f"{line}\r\n" for line in [*(f"RCPT TO:<{one}>" for one in chosen), "DATA"]).encode())
    token = secrets.token_hex(4).encode()
    for number, rest in enumerate(itertools.cycle(made)):
        yield b"MAIL FROM:<%s.%d@benchmark.test>\r\n%s" % (token, number, rest)


def _name_clients(plan: Plan, number: int) -> Iterator[str]:
    """Addresses that no run before had, so that nobody remembers their names."""
    first = FIRST_CLIENT + (secrets.randbelow(1 << 16) << 8)
    for i in itertools.count(number, plan.processes) if plan.clients else ():
        yield socket.inet_ntoa((first + 1 + i % plan.clients).to_bytes(4, "big"))


class Loop:
    """Sessions of one process, driven by epoll."""

    def __init__(
        self, plan: Plan, work: Iterator[bytes], *, envelopes: Iterator[bytes], clients: Iterator[str]
    ) -> None:
        self.plan = plan
        self.work = work
        self.envelopes = envelopes
        self.clients = clients
        self.result = Result()
        self.epoll = select.epoll()
        self.sessions: dict[int, Session] = {}

    def run(self, sessions: int) -> None:
        for _ in range(sessions):
            self.open()
        while self.sessions:
            events = self.epoll.poll(PATIENCE_SECONDS)
            if not events:
                raise TimeoutError(f"{self.plan.host}:{self.plan.port} has not said a word in {PATIENCE_SECONDS:.0f} s")
            for number, _ in events:
                self.sessions[number].go_on()

    def open(self) -> None:
        """A new session, as long as there is something to send."""
        if (wire := next(self.work, None)) is not None:
            session = Session(self, wire)
            self.sessions[session.socket.fileno()] = session
            self.epoll.register(session.socket, select.EPOLLIN)

    def close(self, session: Session) -> None:
        del self.sessions[session.socket.fileno()]
        session.socket.close()
        self.open()


class Session:
    """One connection: what is awaited, and what is said next."""

    def __init__(self, loop: Loop, wire: bytes) -> None:
        self.loop = loop
        self.wire: bytes | None = wire
        self.sent = 0
        self.unsent = memoryview(b"")
        self.input = bytearray()
        self.replies: list[bytes] = []
        self.client = next(loop.clients, "")
        source = (self.client, 0) if loop.plan.local_clients and self.client else None
        self.socket = socket.create_connection((loop.plan.host, loop.plan.port), source_address=source)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.begun = self.ended = 0.0
        self.awaited, self.then = 1, self.greet

    def go_on(self) -> None:
        try:
            if self.unsent:
                self.push()
            self.read()
        except OSError:
            self.lose()

    def read(self) -> None:
        try:
            octets = self.socket.recv(READ_OCTETS)
        except BlockingIOError:
            return
        if not octets:
            return self.lose()
        self.input += octets
        if not octets.endswith(b"\n"):
            return
        for line in self.input.splitlines():
            if line[3:4] != b"-":
                self.replies.append(bytes(line))
        self.input.clear()
        if len(self.replies) >= self.awaited:
            replies, self.replies = self.replies, []
            self.then(replies)

    def say(self, octets: bytes, awaited: int, then: object) -> None:
        self.awaited, self.then = awaited, then  # type: ignore[assignment]
        self.unsent = memoryview(octets)
        self.push(first=True)

    def push(self, *, first: bool = False) -> None:
        """Send as much as the connection takes; the rest when it takes more."""
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        if not self.unsent:
            self.ended = time.perf_counter()
        if self.unsent or not first:
            events = select.EPOLLIN | (select.EPOLLOUT if self.unsent else 0)
            self.loop.epoll.modify(self.socket, events)

    def greet(self, replies: list[bytes]) -> None:
        if not replies[0].startswith(b"220"):
            return self.fail(replies[0])
        if self.loop.plan.local_clients or not self.client:
            return self.introduce(replies)
        name = f"h{self.client.replace('.', '-')}.clients.test"  # as name_server.py has it
        self.say(f"XCLIENT NAME={name} ADDR={self.client}\r\n".encode(), 1, self.introduce)

    def introduce(self, replies: list[bytes]) -> None:
        if not replies[0].startswith(b"220"):
            return self.fail(replies[0])
        self.say(b"EHLO benchmark.test\r\n", 1, self.address)

    def address(self, replies: list[bytes]) -> None:
        """The next envelope, or goodbye."""
        if self.wire is None and self.sent < self.loop.plan.messages_per_connection:
            self.wire = next(self.loop.work, None)
        if self.wire is None:
            return self.say(b"QUIT\r\n", 1, self.leave)
        self.begun = time.perf_counter()
        self.sent += 1
        self.say(next(self.loop.envelopes), self.loop.plan.recipients_per_message + 2, self.send)

    def send(self, replies: list[bytes]) -> None:
        if replies[-1].startswith(b"354"):
            assert self.wire is not None
            return self.say(self.wire, 1, self.note)
        self.count(next(reply for reply in replies if not reply.startswith(b"250")))
        self.say(b"RSET\r\n", 1, self.address)

    def note(self, replies: list[bytes]) -> None:
        now = time.perf_counter()
        assert self.wire is not None
        self.loop.result.octets += len(self.wire)
        self.loop.result.waits.append(now - self.ended)
        self.loop.result.wholes.append(now - self.begun)
        self.count(replies[0])
        self.address(replies)

    def count(self, reply: bytes) -> None:
        self.wire = None
        self.loop.result.messages += 1
        self.loop.result.replies[reply[:9].decode("ascii", "replace").strip()] += 1

    def fail(self, reply: bytes) -> None:
        """Turned away before a message could be sent."""
        self.count(reply)
        self.loop.close(self)

    def lose(self) -> None:
        if self.wire is not None:
            self.count(LOST.encode())
        self.loop.close(self)

    def leave(self, replies: list[bytes]) -> None:
        self.loop.close(self)
