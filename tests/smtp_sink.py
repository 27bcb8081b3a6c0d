"""A small real SMTP server for tests: it keeps every octet it was sent, and answers as it is told to.

    with Sink() as sink:
        sink.on("RCPT", "450 4.2.1 busy", times=1)   # then as usual again
        sink.on("DOT", lambda text: Reply("250 ok", after=0.5))
        ...
        [message] = sink.wait(1)

Steps that can be told: BANNER, EHLO, HELO, STARTTLS, MAIL, RCPT, DATA, DOT, RSET, NOOP, QUIT. An answer is a reply line
(several joined by CRLF), a `Reply`, CLOSE (hang up without a word), TAKE_AND_CLOSE (at the DOT: keep the message, then
hang up), or a function of the command line that gives one of these, or None for the usual answer.
It listens on a thread of its own; no aiosmtpd, so that the other side's faults are not hidden by the same code.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("smtp_sink.pem")
EXTENSIONS = ("PIPELINING", "SIZE 52428800", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8")
CLOSE = "close"
TAKE_AND_CLOSE = "take and close"


@dataclass(frozen=True)
class Reply:
    """A reply line, sent after so many seconds."""

    line: str
    after: float = 0


Answer = str | Reply | None
Told = Answer | Callable[[str], Answer]


@dataclass
class SunkMessage:
    """A message that the sink answered 250 (or took and hung up)."""

    sender: str  # as in MAIL, brackets included
    recipients: list[str]
    parameters: str  # what stood behind the sender
    wire: bytes  # as sent, without the end mark
    raw: bytes  # with the dots unstuffed
    tls: bool
    connection: int
    at: float = field(default_factory=time.time)


class Sink:
    """A server at `host`:`port`, from `start` (or `with`) to `stop`; it can be started again at the same port."""

    def __init__(
        self, *, extensions: tuple[str, ...] = EXTENSIONS, tls: bool = False, port: int = 0, host: str = "127.0.0.1"
    ) -> None:
        self.extensions = extensions
        self.tls = tls
        self.host = host
        self.port = port
        self.messages: list[SunkMessage] = []
        self.commands: list[str] = []
        self.connections = 0
        self.open = 0
        self.most_open = 0
        self.changed = threading.Condition()
        self.told: dict[str, deque[tuple[int, Told]]] = {}

    def __enter__(self) -> Sink:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        assert started.wait(5)

    def stop(self) -> None:
        """Hang up on everybody and stop listening."""
        self.loop.call_soon_threadsafe(self.main.cancel)
        self.thread.join(5)

    def on(self, step: str, answer: Told, times: int = -1) -> None:
        """Answer `step` so, the next `times` times (-1: from now on)."""
        self.told.setdefault(step, deque()).append((times, answer))

    def off(self, step: str) -> None:
        """Answer `step` as usual again."""
        self.told.pop(step, None)

    def wait(self, count: int, seconds: float = 15) -> list[SunkMessage]:
        """The messages, as soon as there are `count`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= count, seconds), f"only {len(self.messages)}"
            return list(self.messages)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        """Wait until something that the sink sees is so."""
        with self.changed:
            assert self.changed.wait_for(condition, seconds)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        self.main = self.loop.create_task(self._serve(started))
        try:
            self.loop.run_until_complete(self.main)
        except asyncio.CancelledError:
            pass
        finally:
            rest = asyncio.all_tasks(self.loop)
            for task in rest:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
            self.loop.close()

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._meet, self.host, self.port, limit=2**26, reuse_address=True)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self.changed:
            self.connections += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            number = self.connections
            self.changed.notify_all()
        try:
            await Session(self, reader, writer, number).talk()
        except (ConnectionError, asyncio.IncompleteReadError, EOFError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()

    def take_answer(self, step: str, line: str) -> Answer:
        queue = self.told.get(step)
        if not queue:
            return None
        times, answer = queue[0]
        if times > 0:
            queue[0] = (times - 1, answer)
            if times == 1:
                queue.popleft()
        return answer(line) if callable(answer) else answer

    def keep(self, message: SunkMessage) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def note(self, line: str) -> None:
        with self.changed:
            self.commands.append(line)
            self.changed.notify_all()


class Session:
    """One connection."""

    def __init__(self, sink: Sink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        self.sink, self.reader, self.writer, self.connection = sink, reader, writer, connection
        self.tls = False
        self.sender, self.parameters, self.recipients = "", "", []

    async def talk(self) -> None:
        await self.say("BANNER", "", "220 sink.test ESMTP")
        while True:
            line = (await self.reader.readuntil(b"\n")).decode("utf-8", "surrogateescape").rstrip("\r\n")
            self.sink.note(line)
            verb = line.split(" ")[0].split(":")[0].upper()
            action = getattr(self, f"do_{verb.lower()}", None)
            if action is None:
                await self.say(verb, line, "500 5.5.2 what?")
            else:
                await action(line)

    async def say(self, step: str, line: str, usual: str) -> bool:
        """Answer; whether the answer was a good one."""
        answer = self.sink.take_answer(step, line)
        if answer in (CLOSE, TAKE_AND_CLOSE):
            raise EOFError
        if isinstance(answer, Reply):
            await asyncio.sleep(answer.after)
            answer = answer.line
        answer = answer if answer is not None else usual
        self.writer.write(answer.encode("utf-8", "surrogateescape") + b"\r\n")
        await self.writer.drain()
        return answer[:1] in "23"

    async def do_ehlo(self, line: str) -> None:
        offered = [*self.sink.extensions, *(["STARTTLS"] if self.sink.tls and not self.tls else [])]
        lines = ["sink.test", *offered]
        text = [f"250-{name}" for name in lines[:-1]] + [f"250 {lines[-1]}"]
        await self.say("EHLO", line, "\r\n".join(text))

    async def do_helo(self, line: str) -> None:
        await self.say("HELO", line, "250 sink.test")

    async def do_starttls(self, line: str) -> None:
        if await self.say("STARTTLS", line, "220 2.0.0 go ahead"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            await self.writer.start_tls(context)
            self.tls = True

    async def do_mail(self, line: str) -> None:
        if self.sender:
            await self.say("MAIL", line, "503 5.5.1 nested MAIL")
        elif await self.say("MAIL", line, "250 2.1.0 ok"):
            self.sender, _, self.parameters = line[len("MAIL FROM:") :].partition(" ")

    async def do_rcpt(self, line: str) -> None:
        if not self.sender:
            await self.say("RCPT", line, "503 5.5.1 MAIL first")
        elif await self.say("RCPT", line, "250 2.1.5 ok"):
            self.recipients.append(line[len("RCPT TO:") :])

    async def do_data(self, line: str) -> None:
        if not self.recipients:
            await self.say("DATA", line, "503 5.5.1 RCPT first")
        elif await self.say("DATA", line, "354 go ahead"):
            await self.take()

    async def take(self) -> None:
        lines = []
        while (line := await self.reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line)
        wire = b"".join(lines)
        raw = b"".join(line.removeprefix(b".") for line in lines)
        message = SunkMessage(
            self.sender, self.recipients, self.parameters, wire, raw, self.tls, self.connection
        )  # fmt: skip
        self.forget()
        queue = self.sink.told.get("DOT")
        if queue and queue[0][1] == TAKE_AND_CLOSE:
            self.sink.keep(message)
        if await self.say("DOT", "", f"250 2.0.0 taken as {len(self.sink.messages) + 1}"):
            self.sink.keep(message)

    def forget(self) -> None:
        self.sender, self.parameters, self.recipients = "", "", []

    async def do_rset(self, line: str) -> None:
        self.forget()
        await self.say("RSET", line, "250 2.0.0 ok")

    async def do_noop(self, line: str) -> None:
        await self.say("NOOP", line, "250 2.0.0 ok")

    async def do_quit(self, line: str) -> None:
        await self.say("QUIT", line, "221 2.0.0 bye")
        raise EOFError
