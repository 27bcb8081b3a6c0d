"""The connection under an SMTP session: octets in and out, waiting, counting, ending. Knows no command."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from itertools import count
from typing import cast

from aiosmtpd.smtp import SMTP

from portal.tenants.directory import DirectoryUnavailable
from quarantine import metrics
from quarantine.causes import Cause
from quarantine.faults import name_fault
from quarantine.gateway import replies
from quarantine.gateway.inlet import ClientGoneError, ClientSilentError, Inlet, LineTooLongError, OutOfStepError
from quarantine.gateway.proxy import BadHeaderError, read_header
from quarantine.gateway.replies import Reply
from quarantine.gateway.services import Services
from quarantine.gateway.story import CAUSES
from quarantine.intake import IntakeUnavailableError
from quarantine.store import StoreUnavailableError

log = logging.getLogger(__name__)

LINGER_SECONDS = 20.0  # for a client to read our last words
HOLD_SECONDS = 0.1  # that replies wait for those to commands that came with theirs
COMMANDS_A_TURN = 20  # of one client, before the event loop looks after the others
WITHOUT_MAIL = {"NOOP", "RSET", "VRFY", "HELO", "EHLO", "XCLIENT"}
UNAVAILABLE = (DirectoryUnavailable, IntakeUnavailableError, StoreUnavailableError)


class Connection(SMTP):
    """An SMTP connection on aiosmtpd's protocol, with a command loop of its own.

    It waits for the client only inside `Inlet`, so that no timeout runs while we work, and it answers a fault of ours
    451, never 500. A connection that is lost cancels what is under way, but not a message that has come whole.
    """

    def __init__(self, services: Services) -> None:
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        # Not SMTP's own: it looks for hooks among all members of the object, at every connection.
        asyncio.StreamReaderProtocol.__init__(self, asyncio.StreamReader(loop=self._loop), loop=self._loop)
        self.hostname = services.hostname
        self.transport: asyncio.BaseTransport | None = None
        self._handler_coroutine: asyncio.Task[None] | None = None
        self._services = services
        self._limits = services.limits
        self._inlet = Inlet(self._loop, self._flush)
        self._pending: list[bytes] = []
        self._wire: asyncio.Transport | None = None
        self._peer = ""  # the address of the connection, or what a load balancer stated
        self._own_ip = ""  # that it came to
        self._tls = ""
        self._stopping = False
        self._listening = False  # waiting for a command
        self._ending: tuple[Cause, Reply | None] = (Cause.DISCONNECTED, None)
        self._lingering: asyncio.TimerHandle | None = None
        self._errors = self._failed_recipients = self._idle_commands = self._recipient_commands = 0
        self._has_told = False  # the log, that mail is put off

    # What a session is

    @property
    def is_under_way(self) -> bool:
        """Whether a mail transaction is open."""
        raise NotImplementedError

    @property
    def is_probe(self) -> bool:
        """Whether somebody of ours only asks if we are there: nothing of that is counted or put on record."""
        raise NotImplementedError

    def begin(self) -> None:
        """The client is connected and admitted."""
        raise NotImplementedError

    def end(self, cause: Cause, reply: Reply | None) -> None:
        """The connection is over, by the client or (with a reply) by us. Called once, whatever happened."""
        raise NotImplementedError

    def sign(self, name: str, reply: Reply) -> Reply:
        """The reply to a command with the id of the open transaction, where it belongs to that."""
        raise NotImplementedError

    def answered(self, name: str, reply: Reply) -> None:
        """A command was answered."""
        raise NotImplementedError

    async def obey(self, name: str, argument: bytes) -> Reply:
        """Do what a command says; `name` is in upper case."""
        raise NotImplementedError

    def forget_client(self) -> None:
        """TLS begins: everything said before is void (RFC 3207 section 4.2)."""
        raise NotImplementedError

    # asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = self._inlet.transport = cast(asyncio.Transport, transport)
        self._peer, self._own_ip = (
            normalise_ip(str((transport.get_extra_info(end) or ("",))[0])) for end in ("peername", "sockname")
        )
        asyncio.StreamReaderProtocol.connection_made(self, transport)
        self.transport = transport
        self._handler_coroutine = self._loop.create_task(self._handle_client())

    def data_received(self, data: bytes) -> None:
        self._inlet.feed(data)

    def eof_received(self) -> bool:
        """The client may still read: what it has sent is answered."""
        self._inlet.feed_eof()
        return not self._tls

    def connection_lost(self, error: Exception | None) -> None:
        self._wire = self.transport = None
        self._inlet.feed_eof()
        self.abort()
        if self._lingering:
            self._lingering.cancel()
        asyncio.StreamReaderProtocol.connection_lost(self, error)

    def stop(self) -> None:
        """End soon: at once when nothing is under way, else after the message that is."""
        self._stopping = True
        if self._listening and not self.is_under_way:
            self.cut()

    def cut(self) -> None:
        """End now."""
        self._ending = Cause.STOPPING, replies.STOPPING
        self._send(replies.STOPPING)
        self.abort()

    def abort(self) -> None:
        if self._handler_coroutine:
            self._handler_coroutine.cancel()

    # The session's course

    async def _handle_client(self) -> None:
        refusal = self._services.admit(self, self._peer)
        try:
            self._ending = await self._converse(refusal or await self._meet())
        except ClientSilentError:
            self._ending = Cause.TIMEOUT, replies.TOO_SLOW
            self._send(replies.TOO_SLOW)
        except ClientGoneError:
            pass
        except Exception as error:  # noqa: BLE001 - the edge of the session
            log.error("session_failed client=%s error=%s", self._peer, name_fault(error.__cause__ or error))
            self._ending = Cause.FAULT, replies.NOT_READY
            self._send(replies.NOT_READY)
        finally:
            self._services.forget(self, self._peer)
            cause, reply = self._ending
            if not self.is_probe:
                metrics.count_connection(cause, reply.code if reply else 0)
            try:
                self.end(cause, reply)
            finally:
                self._hang_up()

    def _hang_up(self) -> None:
        if self._wire:
            self._flush()
            self._wire.close()
            self._lingering = self._loop.call_later(LINGER_SECONDS, self._wire.abort)

    async def _meet(self) -> Reply | None:
        """Learn whom a load balancer speaks for, and whether the client waits for our greeting; a reply means that it
        is to be turned away with it. The greeting is never delayed: what has not come by now has not come too early.
        """
        if self._services.is_balancer(self._peer):
            try:
                stated = normalise_ip(await read_header(self._inlet, seconds=self._limits.proxy_seconds))
            except (BadHeaderError, ClientSilentError, TimeoutError):
                return replies.BAD_PROXY
            if stated and (refusal := self._move(stated)):
                return refusal
        return replies.EARLY_TALKER if await self._inlet.has_spoken() else None

    def _move(self, stated: str) -> Reply | None:
        peer, self._peer = self._peer, stated
        return self._services.move(peer, stated)

    async def _converse(self, refusal: Reply | None) -> tuple[Cause, Reply | None]:
        """Why the connection ends, and the last reply where it is ours to end it."""
        if refusal:
            self._send(refusal)
            return CAUSES[refusal], refusal
        self.begin()
        self._send(replies.greet(self.hostname))
        for turn in count(1):
            if self._stopping and not self.is_under_way:
                break
            await self._drain()
            if turn % COMMANDS_A_TURN == 0:
                await asyncio.sleep(0)  # a client that has sent thousands at once is not the only one
            reply = await self._take_command()
            if reply is replies.BYE:
                return Cause.QUIT, None
            if reply.is_last:
                return CAUSES[reply], reply
            if reply is replies.READY_FOR_TLS:
                await self._start_tls()
        self._send(replies.STOPPING)
        return Cause.STOPPING, replies.STOPPING

    async def _take_command(self) -> Reply:
        """Read and obey one command; return the last reply that was sent."""
        name = ""
        self._listening = True
        try:
            line = await self._inlet.read_line(limit=self._limits.command_octets, seconds=self._limits.command_seconds)
            self._listening = False
            name, argument = split_command(line)
            # What we wait for may take long, and the replies so far must not (RFC 2920 section 3.2).
            hurry = self._loop.call_later(HOLD_SECONDS, self._flush) if self._pending else None
            try:
                reply = self.sign(name, await self._obey(name, argument))
            finally:
                if hurry:
                    hurry.cancel()
        except LineTooLongError:
            reply = replies.LINE_TOO_LONG
        self._send(reply)
        self.answered(name, reply)
        if not self.is_probe:
            metrics.count_command(name, reply.code)
        if end := self._count(name, reply):
            self._send(end)
            return end
        return reply

    async def _obey(self, name: str, argument: bytes) -> Reply:
        try:
            return await self.obey(name, argument)
        except UNAVAILABLE as error:
            if not self._has_told:
                log.warning("deferred client=%s command=%s cause=%s", self._peer, name, type(error).__name__)
            self._has_told = True
        except (ClientSilentError, ClientGoneError, OutOfStepError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is our fault and the sender comes again
            log.error("command_failed client=%s command=%s error=%s", self._peer, name, name_fault(error))
        return replies.TEMPORARY

    def _count(self, name: str, reply: Reply) -> Reply | None:
        """Keep account of what clients do instead of sending mail; the reply that ends the session is returned."""
        if name in {"DATA", "BDAT"} and reply.code == replies.OK.code and reply is not replies.CHUNK_OK:
            self._errors = self._failed_recipients = self._idle_commands = self._recipient_commands = 0
        elif name == "RCPT" and reply.code >= 500:
            self._failed_recipients += 1
        elif reply.code >= 500 and name != "BDAT":  # the session counts those: a lost message is one error
            self._errors += 1
        elif name in WITHOUT_MAIL:
            self._idle_commands += 1
        self._recipient_commands += name == "RCPT" or (name not in WITHOUT_MAIL and reply.code // 100 == 4)
        if reply.is_last:
            return None
        limits = self._limits
        if self._errors >= limits.errors or self._failed_recipients >= limits.failed_recipients:
            return replies.TOO_MANY_ERRORS
        if self._idle_commands >= limits.idle_commands or self._recipient_commands >= limits.recipient_commands:
            return replies.TOO_MANY_COMMANDS
        return None

    def _send(self, reply: Reply) -> None:
        """Queue a reply; replies to commands that came together leave together (RFC 2920 section 3.2)."""
        self._pending.append(reply.encode())

    def _flush(self) -> None:
        if self._pending and self._wire:
            self._wire.write(b"".join(self._pending))
        self._pending.clear()

    async def _drain(self) -> None:
        """Wait for a client that does not read our replies."""
        if not self._paused:  # type: ignore[attr-defined]
            return
        try:
            async with asyncio.timeout(self._limits.command_seconds):
                await self._drain_helper()  # type: ignore[attr-defined]
        except TimeoutError as error:
            raise ClientSilentError from error
        except OSError as error:
            raise ClientGoneError from error

    async def _start_tls(self) -> None:
        assert self._wire is not None  # noqa: S101 - the command came over it
        assert self._services.tls is not None  # noqa: S101 - the reply would have been another
        self._flush()
        await self._drain()
        self._inlet.clear()
        self._ending = Cause.TLS_FAILED, None  # should the handshake come to nothing
        try:
            transport = await self._loop.start_tls(
                self._wire,
                self,
                self._services.tls,
                server_side=True,
                ssl_handshake_timeout=self._limits.handshake_seconds,
            )
        except OSError as error:  # of TLS, of the connection, or of time
            raise ClientGoneError from error
        assert transport  # noqa: S101 - it raises otherwise
        self._wire = self._inlet.transport = self.transport = transport
        self._tls = describe_tls(transport)
        self._ending = Cause.DISCONNECTED, None
        self.forget_client()


def split_command(line: bytes) -> tuple[str, bytes]:
    verb, _, argument = line.rstrip(b"\r\n").partition(b" ")
    return verb.upper().decode("ascii", "replace"), argument.strip(b" \t")


def normalise_ip(text: str) -> str:
    """The address without a zone, and an IPv4 one mapped into IPv6 as IPv4."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


def describe_tls(transport: asyncio.BaseTransport) -> str:
    tls = transport.get_extra_info("ssl_object")
    cipher = transport.get_extra_info("cipher") or ("",)
    return f"{tls.version() if tls else 'TLS'} {cipher[0]}".strip()


def find_cause(error: Exception) -> Cause:
    return Cause.UNAVAILABLE if isinstance(error, UNAVAILABLE) else Cause.FAULT
