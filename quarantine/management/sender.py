"""A bounded SMTP sender: octets as they are, every reply reported. For trying the gateway, the demo and tests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from portal.settings.environment import Address

MAX_CONCURRENCY = 100
REPLY_SECONDS = 300  # RFC 5321 4.5.3.2 asks for 2 to 10 minutes, by command
MAX_REPLY_LINES = 100
TRACE_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{20}\b")  # Crockford's base32


class ConversationError(Exception):
    """The server broke the protocol or went away."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message to send: `raw` with CRLF line ends, not dot-stuffed; `sender` empty for the null path."""

    name: str
    raw: bytes
    sender: str
    recipients: tuple[str, ...]
    client_ip: str = ""  # asked for by XCLIENT
    helo: str = "localhost"


@dataclass(frozen=True, slots=True)
class Reply:
    code: int  # 0: no answer
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.code else self.text


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a letter: the reply to its content, or to the step that ended it before."""

    name: str
    reply: Reply
    refused: tuple[tuple[str, Reply], ...] = ()  # recipients refused, each with its reply

    @property
    def trace_id(self) -> str:
        found = TRACE_ID.search(self.reply.text.upper())
        return found.group() if found else ""


async def send_all(
    letters: Iterable[Letter], *, server: Address, concurrency: int, report: Callable[[Answer], None]
) -> None:
    """Send every letter over at most `concurrency` connections (1 to 100); `report` is called once a letter.

    Letters are taken one by one, so a generator that reads files holds few of them in memory.
    """
    shared = iter(letters)
    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, min(concurrency, MAX_CONCURRENCY))):
            group.create_task(send_in_turn(shared, server, report))


async def send_in_turn(letters: Iterator[Letter], server: Address, report: Callable[[Answer], None]) -> None:
    line = Line(server)
    try:
        for letter in letters:
            report(await line.send(letter))
    finally:
        await line.close()


class Line:
    """One connection, opened when there is something to send and used again while the server keeps it."""

    def __init__(self, server: Address) -> None:
        self.server = server
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.greeted = ("", "")  # HELO name and client address that the server knows us by
        self.offers = ""

    async def send(self, letter: Letter) -> Answer:
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                return await self.converse(letter)
        except (OSError, EOFError, ValueError, ConversationError) as error:  # TimeoutError is an OSError
            await self.close()
            return Answer(letter.name, Reply(0, f"no answer: {str(error) or type(error).__name__}"))

    async def converse(self, letter: Letter) -> Answer:
        if refusal := await self.greet(letter):
            await self.close()
            return Answer(letter.name, refusal)
        reply = await self.command(f"MAIL FROM:<{letter.sender}>{self.get_parameters(letter)}")
        if reply.code != 250:
            return await self.give_up(letter, reply)
        replies = [(address, await self.command(f"RCPT TO:<{address}>")) for address in letter.recipients]
        refused = tuple((address, reply) for address, reply in replies if reply.code not in {250, 251})
        if len(refused) == len(replies):
            return await self.give_up(letter, refused[-1][1], refused)
        reply = await self.command("DATA")
        if reply.code != 354:
            return await self.give_up(letter, reply, refused)
        reply = await self.transmit(stuff(letter.raw))
        if reply.code == 421:
            await self.close()
        return Answer(letter.name, reply, refused)

    async def give_up(self, letter: Letter, reply: Reply, refused: tuple[tuple[str, Reply], ...] = ()) -> Answer:
        if reply.code == 421:
            await self.close()
        else:
            await self.command("RSET")
        return Answer(letter.name, reply, refused)

    async def greet(self, letter: Letter) -> Reply | None:
        """Be connected as this letter's client; the reply where the server does not want us."""
        wanted = (letter.helo, letter.client_ip)
        if self.streams and (self.greeted != wanted or self.streams[0].at_eof()):
            await self.close()
        if self.streams:
            return None
        self.streams = await asyncio.open_connection(self.server.host, self.server.port)
        banner = await self.read_reply()
        if banner.code != 220:
            return banner
        refusal = await self.say_hello(letter.helo)
        if letter.client_ip and not refusal:
            refusal = await self.introduce(letter.client_ip) or await self.say_hello(letter.helo)
        self.greeted = wanted
        return refusal

    async def say_hello(self, name: str) -> Reply | None:
        reply = await self.command(f"EHLO {name}")
        self.offers = reply.text.upper()
        return None if reply.code == 250 else reply

    async def introduce(self, client_ip: str) -> Reply | None:
        """Postfix's XCLIENT; the server begins the session anew."""
        if "XCLIENT" not in self.offers:
            raise ConversationError("the server does not offer XCLIENT to us (see LAZARET_XCLIENT)")
        reply = await self.command(f"XCLIENT ADDR={'IPV6:' if ':' in client_ip else ''}{client_ip}")
        return None if reply.code == 220 else reply

    def get_parameters(self, letter: Letter) -> str:
        parameters = f" SIZE={len(letter.raw)}" if "SIZE" in self.offers else ""
        if "8BITMIME" in self.offers and not letter.raw.isascii():
            parameters += " BODY=8BITMIME"
        if "SMTPUTF8" in self.offers and not "".join((letter.sender, *letter.recipients)).isascii():
            parameters += " SMTPUTF8"
        return parameters

    async def command(self, line: str) -> Reply:
        if re.search(r"[\r\n\0]", line):
            raise ConversationError("a line end within an address")
        return await self.transmit(line.encode() + b"\r\n")

    async def transmit(self, octets: bytes) -> Reply:
        if not self.streams:
            raise ConversationError("no connection")
        self.streams[1].write(octets)
        await self.streams[1].drain()
        return await self.read_reply()

    async def read_reply(self) -> Reply:
        """Read one reply, of several lines maybe (RFC 5321 4.2.1)."""
        if not self.streams:
            raise ConversationError("no connection")
        texts: list[str] = []
        while len(texts) < MAX_REPLY_LINES:
            line = await self.streams[0].readuntil(b"\n")
            found = re.fullmatch(rb"([2-5]\d\d)([ -]?)(.*?)\r?\n", line, re.DOTALL)
            if not found:
                raise ConversationError("not an SMTP reply")
            texts.append(found[3].decode("utf-8", "replace"))
            if found[2] != b"-":
                return Reply(int(found[1]), "\n".join(texts))
        raise ConversationError("a reply without end")

    async def close(self) -> None:
        """Leave, politely where the server still listens."""
        streams, self.streams = self.streams, None
        self.greeted, self.offers = ("", ""), ""
        if streams:
            with suppress(OSError, TimeoutError):
                streams[1].write(b"QUIT\r\n")
                streams[1].close()
                async with asyncio.timeout(1):
                    await streams[1].wait_closed()


def stuff(raw: bytes) -> bytes:
    """Dot-stuffing and the end of data (RFC 5321 4.5.2). Only a dot after CRLF begins a line."""
    stuffed = raw.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") or not stuffed else b"\r\n.\r\n")
