"""The commands of an SMTP session. Each hook is short, knows no table, and returns its answer."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from filtering.evidence import PtrEvidence
from portal.tenants.directory import Addressee, UnknownMailbox
from quarantine.causes import Cause
from quarantine.gateway import replies
from quarantine.gateway.addresses import AddressError, NeedsUtf8Error, Path, SyntaxProblem, read_address, read_path
from quarantine.gateway.connection import Connection, normalise_ip
from quarantine.gateway.inlet import Chunks, Data
from quarantine.gateway.memory import Share
from quarantine.gateway.recipients import Undecided
from quarantine.gateway.replies import Reply
from quarantine.gateway.services import Services
from quarantine.gateway.xclient import read_xclient
from quarantine.intake import Recipient, Result, await_ptr
from quarantine.records import Transaction
from quarantine.trace_id import make_trace_id

log = logging.getLogger(__name__)

HTTP_VERBS = {"GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT"}
KNOWN_BUT_NOT_HERE = {"AUTH", "ETRN", "EXPN", "HELP", "SAML", "SEND", "SOML", "TURN"}

CHUNK = re.compile(rb"([0-9]{1,10})(?:[ \t]+(LAST))?", re.IGNORECASE)


@dataclass(slots=True)
class Mail:
    """An open mail transaction. `sender` is empty for the null path."""

    sender: str
    utf8: bool
    trace_id: str = field(default_factory=make_trace_id)
    recipients: dict[str, Recipient] = field(default_factory=dict)  # by lower-case address: said twice, kept once
    refused: int = 0
    deferred: int = 0  # recipients that we could not decide about


class Session(Connection):
    """SMTP as RFC 5321 has it for a relay that takes mail for its own domains only."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._mail: Mail | None = None
        self._ptr: asyncio.Task[PtrEvidence] | None = None
        self._ip = ""  # of the client: the connection's, or what a trusted peer stated by XCLIENT
        self._helo = ""
        self._stated_helo = ""  # by XCLIENT
        self._extended = False
        self._messages = 0
        self._chunks: Chunks | None = None  # of a message that is being sent by BDAT
        self._broken: Reply | None = None  # what was said to a chunk without which the others are worth nothing

    @property
    def is_under_way(self) -> bool:
        return self._mail is not None

    def begin(self) -> None:
        self._begin(self._peer)

    def _begin(self, ip: str) -> None:
        """The evidence of the client is asked for now, and awaited at RCPT."""
        self.end()
        self._ip = ip
        self._ptr = asyncio.ensure_future(self._services.look_up_ptr(ip))
        self.forget_client()

    def end(self) -> None:
        self._forget_mail()
        if self._ptr:
            self._ptr.cancel()

    def _forget_mail(self) -> None:
        if self._chunks:
            self._chunks.close()
        self._mail = self._chunks = self._broken = None

    def forget_client(self) -> None:
        self._forget_mail()
        self._helo, self._extended = "", False

    async def obey(self, name: str, argument: bytes) -> Reply:
        if command := self.COMMANDS.get(name):
            return await command(self, argument)
        if name in HTTP_VERBS:
            return replies.NOT_SMTP
        return replies.NOT_IMPLEMENTED if name in KNOWN_BUT_NOT_HERE else replies.UNKNOWN_COMMAND

    async def smtp_HELO(self, argument: bytes) -> Reply:  # noqa: N802
        if not argument:
            return replies.HELO_SYNTAX
        self.forget_client()
        self._helo = argument.decode("utf-8", "replace")
        return replies.answer_helo(self.hostname)

    async def smtp_EHLO(self, argument: bytes) -> Reply:  # noqa: N802
        reply = await self.smtp_HELO(argument)
        if reply.is_error:
            return reply
        self._extended = True
        return replies.answer_ehlo(self.hostname, self._list_extensions())

    def _list_extensions(self) -> list[str]:
        extensions = ["PIPELINING", f"SIZE {self._limits.message_octets}", "8BITMIME", "SMTPUTF8", "CHUNKING"]
        if self._services.tls and not self._tls:
            extensions.append("STARTTLS")
        if self._services.is_trusted(self._peer):
            extensions.append("XCLIENT ADDR HELO")
        return [*extensions, "ENHANCEDSTATUSCODES"]

    async def smtp_NOOP(self, argument: bytes) -> Reply:  # noqa: N802
        return replies.OK

    async def smtp_VRFY(self, argument: bytes) -> Reply:  # noqa: N802
        return replies.CANNOT_VERIFY

    async def smtp_RSET(self, argument: bytes) -> Reply:  # noqa: N802
        if argument:
            return replies.NO_ARGUMENT_WANTED
        self._forget_mail()
        return replies.OK

    async def smtp_QUIT(self, argument: bytes) -> Reply:  # noqa: N802
        return replies.NO_ARGUMENT_WANTED if argument else replies.BYE

    async def smtp_STARTTLS(self, argument: bytes) -> Reply:  # noqa: N802
        if argument:
            return replies.NO_ARGUMENT_WANTED
        if not self._services.tls:
            return replies.NOT_IMPLEMENTED
        return replies.TLS_ALREADY if self._tls else replies.READY_FOR_TLS

    async def smtp_XCLIENT(self, argument: bytes) -> Reply:  # noqa: N802
        if not self._services.is_trusted(self._peer):
            return replies.XCLIENT_DENIED
        if self._mail:
            return replies.NOT_DURING_MAIL
        try:
            stated = read_xclient(argument)
        except ValueError:
            return replies.XCLIENT_SYNTAX
        self._begin(normalise_ip(stated.get("ADDR") or self._ip))
        self._stated_helo = stated.get("HELO", self._stated_helo)
        return replies.greet(self.hostname)

    async def smtp_MAIL(self, argument: bytes) -> Reply:  # noqa: N802
        if not self._helo:
            return replies.SEND_HELO_FIRST
        if self._mail:
            return replies.NESTED_MAIL
        if self._messages >= self._limits.messages:
            return replies.TOO_MANY_MESSAGES
        try:
            path = read_path(argument, b"FROM:")
            if problem := self._check_mail_parameters(path):
                return problem
            utf8 = "SMTPUTF8" in path.parameters
            self._broken = None
            self._mail = Mail(read_address(path.text, utf8=utf8), utf8)
        except SyntaxProblem:
            return replies.MAIL_SYNTAX
        except NeedsUtf8Error:
            return replies.SMTPUTF8_NEEDED
        except AddressError:
            return replies.BAD_SENDER
        return replies.SENDER_OK

    def _check_mail_parameters(self, path: Path) -> Reply | None:
        given = path.parameters
        if set(given) - {"SIZE", "BODY", "SMTPUTF8"} or (given and not self._extended):
            return replies.UNKNOWN_PARAMETER
        if "BODY" in given and (given["BODY"] or "").upper() not in {"7BIT", "8BITMIME"}:
            return replies.BAD_BODY
        if given.get("SMTPUTF8") is not None:
            return replies.BAD_SMTPUTF8
        size = given.get("SIZE", "0") or ""
        if not size.isdigit():
            return replies.BAD_SIZE
        if len(size) > 20 or int(size) > self._limits.message_octets:
            return replies.TOO_BIG
        if not self._services.memory.has_room(self._ip, int(size)):
            return replies.NO_ROOM
        shed = self._services.load.refuse_mail(self._ip)
        return shed[0] if shed else None

    async def smtp_RCPT(self, argument: bytes) -> Reply:  # noqa: N802
        if self._mail is None:
            return replies.SEND_MAIL_FIRST if self._helo else replies.SEND_HELO_FIRST
        if self._chunks or self._broken:
            return replies.BDAT_UNDER_WAY
        try:
            path = read_path(argument, b"TO:")
            address = read_address(path.text, utf8=self._mail.utf8)
        except SyntaxProblem:
            return replies.RCPT_SYNTAX
        except NeedsUtf8Error:
            return replies.SMTPUTF8_NEEDED
        except AddressError:
            return replies.BAD_RECIPIENT
        if path.parameters:
            return replies.UNKNOWN_PARAMETER
        if not address:
            return replies.RCPT_SYNTAX
        if len(self._mail.recipients) >= self._limits.recipients:
            return replies.TOO_MANY_RECIPIENTS
        mail = self._mail
        mail.deferred += 1  # until it is decided: whatever is raised means 451
        reply = await self._admit(mail, address)
        mail.deferred -= 1
        return reply

    async def _admit(self, mail: Mail, address: str) -> Reply:
        """Accept or refuse a recipient; a refusal is on record before it is said."""
        found = await self._services.recipients.find(address)
        if isinstance(found, Undecided):
            mail.deferred += 1  # and stays so: without other recipients, DATA is answered 451
            return replies.UNVERIFIED
        if isinstance(found, Addressee):
            recipient = Recipient(address if "@" in address else found.address, found)
            refusal = await self._refuse_client(mail, recipient)
            if refusal is None:
                mail.recipients.setdefault(recipient.given.lower(), recipient)
                return replies.RECIPIENT_OK
        else:
            refusal = await self._refuse_recipient(mail, address, found)
        mail.refused += 1
        log.info("recipient_refused trace=%s client=%s code=%d", mail.trace_id, self._ip, refusal.code)
        return refusal

    async def _refuse_client(self, mail: Mail, recipient: Recipient) -> Reply | None:
        transaction, intake = await self._describe(mail), self._services.intake
        refusal = await intake.judge_client(self._ip, transaction.ptr, recipient.addressee)
        if refusal is None:
            return None
        reply = replies.refuse(refusal.code, refusal.enhanced, refusal.text)
        await intake.record_refused_client(transaction, recipient, refusal, str(reply))
        return reply

    async def _refuse_recipient(self, mail: Mail, address: str, found: UnknownMailbox | None) -> Reply:
        transaction, intake = await self._describe(mail), self._services.intake
        if found is None:
            await intake.record_relay_denied(transaction, address, str(replies.RELAY_DENIED))
            return replies.RELAY_DENIED
        await intake.record_unknown_mailbox(transaction, address, found, str(replies.UNKNOWN_MAILBOX))
        return replies.UNKNOWN_MAILBOX

    async def _describe(self, mail: Mail) -> Transaction:
        assert self._ptr is not None  # noqa: S101 - begun with the session
        return Transaction(
            trace_id=mail.trace_id,
            received_at=datetime.now(UTC),
            client_ip=self._ip,
            sender=mail.sender,
            helo=self._stated_helo or self._helo,
            tls=self._tls,
            ptr=await await_ptr(self._ptr),
        )

    async def smtp_DATA(self, argument: bytes) -> Reply:  # noqa: N802
        if argument:
            return replies.NO_ARGUMENT_WANTED
        if self._chunks or self._broken:
            return replies.BDAT_UNDER_WAY
        if refusal := self._refuse_content():
            return refusal
        self._send(replies.GO_AHEAD)
        with self._services.memory.share(self._ip) as share:
            data = await self._inlet.read_data(limit=self._limits.message_octets, pace=self._limits.pace, share=share)
            return await self._take(data)

    async def smtp_BDAT(self, argument: bytes) -> Reply:  # noqa: N802
        """A chunk that is refused is read all the same, and so are those that came with it (RFC 3030 section 2)."""
        found = CHUNK.fullmatch(argument)
        if not found:
            self._send(replies.BDAT_SYNTAX)
            return replies.OUT_OF_STEP
        size, is_last, was_broken = int(found[1]), bool(found[2]), self._broken is not None
        reply = await self._take_chunk(size, is_last=is_last)
        self._errors += reply.code >= 500 and not was_broken
        self._idle_commands += size < self._limits.small_chunk and not is_last
        return reply

    async def _take_chunk(self, size: int, *, is_last: bool) -> Reply:
        refusal = self._broken or self._refuse_content()
        chunks = self._start_chunks(0) if refusal else self._chunks or self._start_chunks(self._limits.message_octets)
        self._chunks = None if refusal else chunks
        await self._inlet.read_chunk(size, into=chunks, pace=self._limits.pace)
        if refusal:
            self._broken = None if is_last else refusal
            return refusal
        if is_last:
            return await self._take(chunks.get_data())
        if chunks.is_dropped:
            return await self._break_off(chunks)
        return replies.CHUNK_OK

    def _start_chunks(self, limit: int) -> Chunks:
        return Chunks(limit=limit, share=Share(self._services.memory, self._ip), began=self._loop.time())

    async def _break_off(self, chunks: Chunks) -> Reply:
        """No room for this chunk: the message ends here. To what else comes of it the answer is the same, as a client
        that pipelines may go by the last.
        """
        reply = replies.TEMPORARY
        try:
            reply = await self._take(chunks.get_data())
        finally:
            self._broken = reply
        return reply

    def _refuse_content(self) -> Reply | None:
        if self._mail is None:
            return replies.SEND_MAIL_FIRST if self._helo else replies.SEND_HELO_FIRST
        if self._mail.recipients:
            return None
        if self._mail.deferred:
            return replies.TEMPORARY
        return replies.NO_VALID_RECIPIENTS if self._mail.refused else replies.SEND_RCPT_FIRST

    async def _take(self, data: Data) -> Reply:
        assert self._mail is not None  # noqa: S101 - else its content would have been refused
        try:
            return await self._receive(self._mail, data)
        finally:
            self._messages += 1
            self._forget_mail()

    async def _receive(self, mail: Mail, data: Data) -> Reply:
        intake, transaction = self._services.intake, await self._describe(mail)
        recipients = list(mail.recipients.values())
        if data.octets is None and data.size <= self._limits.message_octets:
            reply = replies.NO_ROOM
        elif data.octets is None:
            reply = replies.TOO_BIG
            await intake.record_refused_message(
                transaction, recipients, (), size=data.size, reply=str(reply), cause=Cause.TOO_BIG
            )
        else:
            answers = make_answers(mail.trace_id)
            texts = {result: str(answer) for result, answer in answers.items()}
            received = await intake.receive(transaction, recipients, data.octets, texts)
            reply = make_answers(received.trace_id)[received.result]
        details = (mail.trace_id, self._ip, len(recipients), data.size, reply.code)
        log.info("message trace=%s client=%s recipients=%d octets=%d code=%d", *details)
        return reply

    COMMANDS: ClassVar[dict[str, Callable[[Any, bytes], Awaitable[Reply]]]] = {
        "HELO": smtp_HELO,
        "EHLO": smtp_EHLO,
        "NOOP": smtp_NOOP,
        "VRFY": smtp_VRFY,
        "RSET": smtp_RSET,
        "QUIT": smtp_QUIT,
        "STARTTLS": smtp_STARTTLS,
        "XCLIENT": smtp_XCLIENT,
        "MAIL": smtp_MAIL,
        "RCPT": smtp_RCPT,
        "DATA": smtp_DATA,
        "BDAT": smtp_BDAT,
    }


def make_answers(trace_id: str) -> dict[Result, Reply]:
    return {
        Result.KEPT: replies.accept(trace_id),
        Result.REFUSED: replies.refuse_content(trace_id),
        Result.LOOPING: replies.LOOPING,
    }
