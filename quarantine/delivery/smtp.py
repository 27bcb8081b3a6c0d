"""SMTP as a client: one connection to a customer's server, for one message after another.

RFC 5321; pipelined where offered (RFC 2920), so that a message costs two round trips instead of five; STARTTLS where
offered (RFC 3207), unverified: a customer's server is named by its people, and plain text is the alternative.
8-bit content goes to a server without 8BITMIME as it is: re-encoding it would break its signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum

MAX_REPLY_LINE = 8192  # octets
MAX_REPLY_LINES = 100
MAX_REPLY_TEXT = 600
CLOSING = 421  # the server hangs up, whatever was asked
MAX_ADDRESSES = 5  # of a server that are asked at a time
CHUNK = 65536
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
NOT_IN_PATH = re.compile(r'[\x00-\x1f\x7f]|^[^"]*[ <>]')  # a space or bracket only in a quoted local part


# What reading and writing raise when a connection breaks, or when what comes is no SMTP. TimeoutError is an OSError.
BROKEN = (OSError, EOFError, asyncio.LimitOverrunError, ValueError)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each answer is waited for, in seconds (RFC 5321 4.5.3.2)."""

    connect: float = 30  # each address
    handshake: float = 30
    command: float = 300  # banner, EHLO, MAIL, RCPT
    data: float = 120
    block: float = 180  # a piece of the content taken
    dot: float = 600


PATIENT = Patience()


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer; several lines become one."""

    code: int
    text: str

    @property
    def good(self) -> bool:
        return self.code // 100 == 2

    @property
    def final(self) -> bool:
        return self.code // 100 == 5

    def __str__(self) -> str:
        return f"{self.code} {self.text}".strip()[:MAX_REPLY_TEXT]


class ConnectError(Exception):
    """The server cannot be reached or does not want to talk: no message has anything to do with it."""

    where = ""  # the addresses that were asked, as `Connection.where` says them


class Stage(StrEnum):
    """How far a transaction has come. Lost in the last one, a message may arrive twice (RFC 1047)."""

    ENVELOPE = "the envelope"
    CONTENT = "the content"
    DOT = "the final dot (the message may arrive twice)"


class LostError(Exception):
    """The connection was lost in a transaction, at `stage`."""

    def __init__(self, text: str, stage: Stage, where: str) -> None:
        super().__init__(f"{text} {stage}")
        self.stage = stage
        self.where = where


@dataclass(frozen=True, slots=True)
class Place:
    """An address of a server, as people read it."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        literal = f"[{self.address}]" if ":" in self.address else self.address
        return f"{literal}:{self.port}" if self.host == self.address else f"{self.host} {literal}:{self.port}"


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who sends to whom; `sender` empty is the null reverse-path."""

    sender: str
    recipients: tuple[str, ...]

    @property
    def needs_utf8(self) -> bool:
        return not all(address.isascii() for address in (self.sender, *self.recipients))


Gate = Callable[[], AbstractAsyncContextManager[None]]
OnTaken = Callable[[list["Reply"]], Awaitable[None]]


@contextlib.asynccontextmanager
async def open_gate() -> AsyncIterator[None]:
    yield


class Connection:
    """An open connection. Made by `connect`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: Place, patience: Patience
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.place = place
        self.patience = patience
        self.tls = ""  # the version
        self.offers: dict[str, str] = {}
        self.usable = True
        self.sent = 0
        self.stage = Stage.ENVELOPE

    @property
    def where(self) -> str:
        """With whom it is, and how it is protected."""
        return f"{self.place}, {self.tls or 'not encrypted'}"

    async def greet(self, hostname: str) -> None:
        """EHLO, or HELO where that is not known. Raises ConnectError."""
        reply, lines = await self._ask_lines(f"EHLO {hostname}")
        self.offers = {}
        if reply.final:
            reply, _ = await self._ask_lines(f"HELO {hostname}")
        elif reply.good:
            words = [line.partition(" ") for line in lines[1:]]
            self.offers = {name.upper(): value for name, _, value in words}
        if not reply.good:
            raise ConnectError(str(reply))

    async def start_tls(self, host: str) -> None:
        """Encrypt what follows. Raises ConnectError when the server does not go along."""
        reply, _ = await self._ask_lines("STARTTLS")
        if reply.code != 220:
            raise ConnectError(str(reply))
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with asyncio.timeout(self.patience.handshake):
            await self.writer.start_tls(context, server_hostname=host)
        self.tls = self.writer.get_extra_info("ssl_object").version() or "TLS"

    async def send(
        self,
        envelope: Envelope,
        wire: bytes,
        *,
        gate: Gate = open_gate,
        on_taken: OnTaken | None = None,
    ) -> list[Reply]:
        """One transaction: a reply for each recipient, in order. `wire` is encoded (see quarantine.delivery.wire).

        The final dot waits for `gate`; `on_taken` is called at once when the server took the message, before anything
        else happens in this process, and waited for before the gate opens. Raises LostError.
        """
        if refusal := self.find_obstacle(envelope, len(wire)):
            return [refusal] * len(envelope.recipients)
        self.sent += 1
        self.stage = Stage.ENVELOPE
        with self._watch():
            replies, last = await self._open_transaction(envelope, wire)
            began = last.code == 354 and any(reply.good for reply in replies)
            if not began and last.good and any(reply.good for reply in replies):
                raise ValueError(f"content accepted before it was sent: {last}")  # nobody has the message
            if began:
                last = await self._send_content(wire, gate, replies, on_taken)
        if any(reply.code == CLOSING for reply in (*replies, last)):
            self.usable = False
        elif not began:
            await self.begin_anew(last)
        return [last if reply.good else reply for reply in replies]

    async def open_empty(self, recipient: str) -> Reply | None:
        """Begin a transaction from the null path that will have no content. A reply says why this recipient cannot even
        be named to the server. Raises LostError, and ConnectError where the server refuses whoever the recipient is.
        """
        if obstacle := self.find_obstacle(Envelope("", (recipient,)), 0):
            return obstacle
        self.sent += 1
        self.stage = Stage.ENVELOPE
        with self._watch():
            reply = await self._ask_for_answer("MAIL FROM:<>" + ("" if recipient.isascii() else " SMTPUTF8"))
        if not reply.good:
            self.abort()
            raise ConnectError(f"MAIL FROM:<>: {reply}")
        return None

    async def try_recipient(self, recipient: str) -> Reply:
        """What the server says to a recipient of the transaction that is open. Raises LostError."""
        with self._watch():
            return await self._ask_for_answer(f"RCPT TO:<{recipient}>")

    async def begin_anew(self, last: Reply) -> None:
        """After a transaction without content: RSET. A server that awaits content for nobody is left alone."""
        if last.code in {354, CLOSING}:
            self.abort()
            return
        self.usable = False
        with contextlib.suppress(*BROKEN):
            reply, _ = await self._ask("RSET")
            self.usable = reply.good

    def find_obstacle(self, envelope: Envelope, size: int) -> Reply | None:
        """What keeps this message out whatever the server would say: answered here as it would have."""
        if any(NOT_IN_PATH.search(address) for address in (envelope.sender, *envelope.recipients)):
            return Reply(553, "5.1.3 The address cannot be written in a command")
        limit = self.offers.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < size:
            return Reply(552, f"5.3.4 The message has {size} octets, the server takes {limit}")
        if envelope.needs_utf8 and "SMTPUTF8" not in self.offers:
            return Reply(553, "5.6.7 The address is not ASCII and the server does not offer SMTPUTF8")
        return None

    async def _open_transaction(self, envelope: Envelope, wire: bytes) -> tuple[list[Reply], Reply]:
        """MAIL, every RCPT, DATA: the recipients' replies, and that to DATA."""
        commands = [self._make_mail(envelope, wire), *(f"RCPT TO:<{address}>" for address in envelope.recipients)]
        if "PIPELINING" in self.offers:
            await self._write("".join(f"{line}\r\n" for line in [*commands, "DATA"]).encode())
            mail, *replies = [await self._read_answer(self.patience.command) for _ in commands]
            go, _ = await self._read(self.patience.data)
        else:
            mail, replies, go = await self._open_step_by_step(commands)
        return (replies if mail.good else [mail] * len(envelope.recipients)), go

    async def _open_step_by_step(self, commands: list[str]) -> tuple[Reply, list[Reply], Reply]:
        mail = await self._ask_for_answer(commands[0])
        if not mail.good:
            return mail, [], mail
        replies = [await self._ask_for_answer(command) for command in commands[1:]]
        if not any(reply.good for reply in replies):
            return mail, replies, mail
        return mail, replies, (await self._ask("DATA", self.patience.data))[0]

    def _make_mail(self, envelope: Envelope, wire: bytes) -> str:
        parameters = [f"SIZE={len(wire)}"] if "SIZE" in self.offers else []
        if "8BITMIME" in self.offers and not wire.isascii():
            parameters.append("BODY=8BITMIME")
        if envelope.needs_utf8:
            parameters.append("SMTPUTF8")
        return " ".join([f"MAIL FROM:<{envelope.sender}>", *parameters])

    async def _send_content(self, wire: bytes, gate: Gate, replies: list[Reply], on_taken: OnTaken | None) -> Reply:
        self.stage = Stage.CONTENT
        for start in range(0, len(wire), CHUNK):
            await self._write(wire[start : start + CHUNK], self.patience.block)
        async with gate():
            self.stage = Stage.DOT
            await self._write(b".\r\n")
            reply = await self._read_answer(self.patience.dot)
            if reply.good and on_taken:
                await on_taken([reply if each.good else each for each in replies])
        return reply

    async def close(self) -> None:
        """Say goodbye, without waiting for the answer."""
        with contextlib.suppress(OSError):
            if self.usable:
                self.writer.write(b"QUIT\r\n")
            self.writer.close()

    def stop_waiting(self, reason: str) -> None:
        """Have whoever waits for a reply see the connection lost for that reason."""
        self.reader.set_exception(ConnectionAbortedError(reason))

    def abort(self) -> None:
        self.usable = False
        self.writer.transport.abort()

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.abort()
            raise LostError("no answer in time to", self.stage, self.where) from None
        except BROKEN as error:
            self.abort()
            raise LostError(f"connection lost ({describe(error)}) in", self.stage, self.where) from None
        except asyncio.CancelledError:
            self.abort()
            raise

    async def _ask(self, line: str, seconds: float | None = None) -> tuple[Reply, list[str]]:
        await self._write(f"{line}\r\n".encode())
        return await self._read(seconds or self.patience.command)

    async def _ask_for_answer(self, line: str) -> Reply:
        await self._write(f"{line}\r\n".encode())
        return await self._read_answer(self.patience.command)

    async def _ask_lines(self, line: str) -> tuple[Reply, list[str]]:
        try:
            return await self._ask(line)
        except TimeoutError:
            raise ConnectError(f"no answer in time to {line.split()[0]}") from None
        except BROKEN as error:
            raise ConnectError(f"connection lost at {line.split()[0]} ({describe(error)})") from None

    async def _write(self, data: bytes, seconds: float | None = None) -> None:
        self.writer.write(data)
        async with asyncio.timeout(seconds or self.patience.command):
            await self.writer.drain()

    async def _read_answer(self, seconds: float) -> Reply:
        """A reply that says yes, later or no. Raises as `_read` does."""
        reply, _ = await self._read(seconds)
        if reply.code // 100 not in {2, 4, 5}:
            raise ValueError(f"strange reply: {reply}")
        return reply

    async def _read(self, seconds: float) -> tuple[Reply, list[str]]:
        """One reply, and its lines. Raises OSError, EOFError, LimitOverrunError; ValueError for what is no reply."""
        lines: list[str] = []
        async with asyncio.timeout(seconds):
            while len(lines) < MAX_REPLY_LINES:
                line = await self.reader.readuntil(b"\n")
                if not line[:3].isdigit():
                    raise ValueError("not an SMTP reply")
                lines.append(CONTROLS.sub(" ", line[4:].decode("utf-8", "replace")).strip())
                if line[3:4] != b"-":
                    return Reply(int(line[:3]), " ".join(lines)[:MAX_REPLY_TEXT]), lines
        raise ValueError("endless reply")


def describe(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "closed by the server"
    text = str(error)
    if isinstance(error, ssl.SSLError | socket.gaierror):
        text = error.strerror or text
    elif isinstance(error, OSError) and error.errno:  # asyncio has texts of its own
        text = os.strerror(error.errno)
    return CONTROLS.sub(" ", text)[:200] or type(error).__name__


async def connect(
    host: str, port: int, addresses: tuple[str, ...], *, hostname: str, tls: bool = True, patience: Patience = PATIENT
) -> Connection:
    """An open, greeted connection to the first of the addresses of `host` that takes it, encrypted where `tls` and the
    server offers it. Raises the ConnectError of the last one, which names all that were asked.

    A broken handshake is a TlsError: the caller may try again in plain text.
    """
    asked: list[str] = []
    failure = ConnectError(f"{host}:{port} has no address")
    for address in addresses[:MAX_ADDRESSES]:
        place = Place(host, address, port)
        asked.append(str(place))
        try:
            return await _connect_to(place, hostname=hostname, tls=tls, patience=patience)
        except ConnectError as error:
            failure = error
            failure.where = " and ".join(asked)
            if isinstance(error, TlsError):
                break
    raise failure


async def _connect_to(place: Place, *, hostname: str, tls: bool, patience: Patience) -> Connection:
    connection = await _open(place, patience)
    try:
        await _read_banner(connection)
        await connection.greet(hostname)
        if tls and "STARTTLS" in connection.offers:
            await _encrypt(connection, place.host, hostname)
    except BaseException:
        connection.abort()
        raise
    return connection


class TlsError(ConnectError):
    """The server offers STARTTLS and cannot do it."""


async def _open(place: Place, patience: Patience) -> Connection:
    server = f"{place.host}:{place.port}"
    try:
        async with asyncio.timeout(patience.connect):
            reader, writer = await asyncio.open_connection(place.address, place.port, limit=MAX_REPLY_LINE)
    except TimeoutError:
        raise ConnectError(f"{server} does not answer") from None
    except OSError as error:
        raise ConnectError(f"{server} cannot be reached ({describe(error)})") from None
    return Connection(reader, writer, place, patience)


async def _read_banner(connection: Connection) -> None:
    try:
        reply, _ = await connection._read(connection.patience.command)
    except TimeoutError:
        raise ConnectError("no banner in time") from None
    except BROKEN as error:
        raise ConnectError(f"no banner ({describe(error)})") from None
    if reply.code != 220:
        raise ConnectError(f"banner: {reply}")


async def _encrypt(connection: Connection, host: str, hostname: str) -> None:
    try:
        await connection.start_tls(host)
        await connection.greet(hostname)
    except (OSError, EOFError, ValueError, ConnectError) as error:
        raise TlsError(f"STARTTLS failed ({describe(error)})") from None
