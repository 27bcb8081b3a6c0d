"""What the client sends, as it comes: lines of commands, and the octets of a message, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from quarantine.gateway.memory import Share

PAUSE_OCTETS = 256 * 1024  # the client is not read while so much waits for us
DROPPED_TIMES = 4  # the limit; of a message that is dropped no more is read
DROPPED_OCTETS = 200 * 1024 * 1024  # nor less than this, where the limit is low
LARGE_OCTETS = 1024 * 1024  # from here on the event loop would feel it
END = b"\r\n.\r\n"
DOT = b"\r\n."  # that begins a line, and was put there (RFC 5321 4.5.2)


class ClientSilentError(Exception):
    """The client is too slow. No TimeoutError: those are of our own making."""


class ClientGoneError(Exception):
    """The client has hung up. No EOFError or ConnectionError: those are of our own making."""


class OutOfStepError(Exception):
    """A fault of ours in the midst of content: what follows is not to be read as commands."""


class LineTooLongError(ValueError):
    """A command line was longer than allowed; it has been read to its end and dropped."""


@dataclass(frozen=True, slots=True)
class Data:
    """A message as received, dot-stuffing undone; `octets` is None where it was too long (`size` tells) or found no
    room. Dots that were doubled are not in `size` (RFC 1870 section 5).
    """

    octets: bytes | None
    size: int


@dataclass(slots=True)
class Pace:
    """How slow a client may send a message: never silent for `silence` seconds, and not below `rate` octets a second
    once `grace` seconds are over. Whoever was faster may be slower then, for `credit` seconds at most.
    """

    silence: float = 180.0  # RFC 5321 4.5.3.2.5
    grace: float = 300.0
    rate: float = 500.0
    credit: float = 180.0  # so that nobody is cut for a silence that is allowed


class Progress:
    """How a message comes along, by the clock of the event loop."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._earned = 0.0  # seconds after the grace
        self.size = 0
        self._dropped_at: float | None = None

    def add(self, octets: int, pace: Pace, now: float) -> None:
        self.size += octets
        most = max(now + pace.credit - self._began - pace.grace, 0)
        self._earned = min(self._earned + octets / pace.rate, most)

    def drop(self, limit: int, now: float) -> None:
        """Nothing of it is kept. Raises ClientSilentError where it is so large that its end is not waited for."""
        if self._dropped_at is None:
            self._dropped_at = now
        if self.size > max(limit * DROPPED_TIMES, DROPPED_OCTETS):
            raise ClientSilentError

    def get_seconds_left(self, pace: Pace, now: float) -> float:
        """For more of it to come; none is left, or less, to a client that is too slow. A message that is dropped is
        read for as long as the grace is, however fast it comes.
        """
        latest = self._began + pace.grace + self._earned
        if self._dropped_at is not None:
            latest = min(latest, self._dropped_at + pace.grace)
        return min(pace.silence, latest - now)


class Chunks:
    """A message that comes in chunks (RFC 3030): their octets as they are, dropped beyond `limit` or where its share of
    the memory cannot grow. `began` is when the first was announced.
    """

    def __init__(self, *, limit: int, share: Share, began: float) -> None:
        self.progress = Progress(began)
        self.size = 0
        self.is_dropped = False
        self.limit = limit
        self._share = share
        self._body = bytearray()

    def add(self, octets: bytearray) -> None:
        self.size += len(octets)
        if self.is_dropped or self.size > self.limit or not self._share.hold(self.size):
            self.is_dropped = True
            self.close()
        else:
            self._body += octets

    def close(self) -> None:
        """Give the memory back."""
        self._body = bytearray()
        self._share.empty()

    def get_data(self) -> Data:
        return Data(None if self.is_dropped else bytes(self._body), self.size)


@contextmanager
def in_step() -> Iterator[None]:
    """While content is read, every fault that is not the client's is an OutOfStepError."""
    try:
        yield
    except (ClientSilentError, ClientGoneError):
        raise
    except Exception as error:
        raise OutOfStepError from error


def unstuff(body: bytearray) -> bytes:
    """The message without the CRLF put before it, and without the dots that were doubled (RFC 5321 4.5.2)."""
    lines = body.replace(DOT, b"\r\n") if DOT in body else body
    return bytes(memoryview(lines)[2:])  # one copy and no more


class Inlet:
    """A buffer between the socket and the session. The session waits in here and nowhere else for the client.

    Waiting raises ClientSilentError or ClientGoneError, and nothing else does. `before_wait` is called whenever the
    client has to be waited for: then the replies so far must be on their way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, before_wait: Callable[[], None]) -> None:
        self._loop = loop
        self._before_wait = before_wait
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._paused = False
        self.transport: asyncio.Transport | None = None

    def feed(self, octets: bytes) -> None:
        self._buffer += octets
        if len(self._buffer) > PAUSE_OCTETS and not self._paused and self.transport:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def feed_eof(self) -> None:
        self._ended = True
        self._wake()

    def clear(self) -> None:
        """Drop what was sent before TLS began: nobody knows who sent it (RFC 3207 section 4.2)."""
        self._buffer.clear()
        self._paused = False

    async def has_spoken(self) -> bool:
        """Whether the client has sent anything by now. Two turns of the event loop: what lay in the socket is read."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return bool(self._buffer)

    async def look(self, *, seconds: float) -> bytes:
        """The next octet, left where it is."""
        await self._wait_for(1, seconds)
        return bytes(self._buffer[:1])

    async def read_exactly(self, size: int, *, seconds: float) -> bytes:
        """The next `size` octets, at most as many as a client is read ahead; all of them within so many seconds."""
        await self._wait_for(size, seconds)
        octets = bytes(self._buffer[:size])
        del self._buffer[:size]
        return octets

    async def _wait_for(self, size: int, seconds: float) -> None:
        latest = self._loop.time() + seconds
        while len(self._buffer) < size:
            await self._wait(latest - self._loop.time())

    async def read_line(self, *, limit: int, seconds: float) -> bytes:
        """The next command line with its line end, whole within so many seconds; raises LineTooLongError beyond
        `limit` octets.
        """
        searched, dropped, latest = 0, False, self._loop.time() + seconds
        while (end := self._buffer.find(b"\n", searched)) < 0:
            if len(self._buffer) > limit:
                dropped = True
                self._buffer.clear()
                self._resume()
            searched = len(self._buffer)
            await self._wait(latest - self._loop.time())
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        self._resume()
        if dropped or len(line) > limit:
            raise LineTooLongError
        return line

    async def read_data(self, *, limit: int, pace: Pace, share: Share, progress: Progress) -> Data:
        """A message up to CRLF.CRLF: nothing else ends it. Beyond `limit` octets, or where its share of the memory
        cannot grow, it is read and dropped.
        """
        body = bytearray(b"\r\n")  # what ended the DATA command: a dot in the first line ends the message too
        dropped = dots = 0
        while True:
            known = len(body)
            body += self._buffer
            progress.add(len(self._buffer), pace, self._loop.time())
            self._buffer.clear()
            first_dot = max(0, known - len(DOT) + 1)
            if (end := body.find(END, max(0, known - len(END) + 1))) >= 0:
                dots += body.count(DOT, first_dot, end) - (end + len(DOT) <= known)  # the last one ends the message
                break
            dots += body.count(DOT, first_dot)
            if dropped or len(body) > limit + dots + len(END) or not share.hold(len(body)):
                share.empty()
                excess = max(len(body) - len(END), 0)
                dropped += excess
                del body[:excess]
            if dropped:
                progress.drop(limit, self._loop.time())
            self._resume()
            await self._wait(progress.get_seconds_left(pace, self._loop.time()))
        self._buffer += body[end + len(END) :]
        self._resume()
        size = dropped + end - dots
        if dropped or size > limit or not share.hold(end):
            return Data(None, size)
        del body[end + 2 :]
        octets = unstuff(body) if end < LARGE_OCTETS else await asyncio.to_thread(unstuff, body)
        return Data(octets, size)

    async def read_chunk(self, size: int, *, into: Chunks, pace: Pace) -> None:
        """The next `size` octets, whatever they are. The pace is that of the whole message; where it was too slow
        by the time the chunk began, it does not help that the chunk has come. One that was waited for is not too late.
        """
        progress, has_waited = into.progress, False
        while True:
            octets = self._buffer[:size]
            del self._buffer[:size]
            size -= len(octets)
            into.add(octets)
            self._resume()
            now = self._loop.time()
            progress.add(len(octets), pace, now)
            left = progress.get_seconds_left(pace, now)
            if not size and (has_waited or left > 0):
                return
            if into.is_dropped:
                progress.drop(into.limit, now)
            if left <= 0:
                raise ClientSilentError
            await self._wait(left)
            has_waited = True

    async def _wait(self, seconds: float) -> None:
        if self._ended:
            raise ClientGoneError
        self._before_wait()
        self._waiter = self._loop.create_future()
        patience = self._loop.call_later(max(seconds, 0), _give_up, self._waiter)
        try:
            await self._waiter
        finally:
            patience.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        if self._paused and len(self._buffer) <= PAUSE_OCTETS and self.transport:
            self._paused = False
            self.transport.resume_reading()


def _give_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(ClientSilentError())
