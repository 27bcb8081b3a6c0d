"""The commands of an SMTP session. Each hook is short, knows no table, and returns its answer."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.pipeline import ClientRefusal
from portal.tenants.directory import Addressee, UnknownMailbox
from quarantine import metrics
from quarantine.causes import Cause
from quarantine.faults import name_fault
from quarantine.gateway import replies
from quarantine.gateway.addresses import AddressError, NeedsUtf8Error, Path, SyntaxProblem, read_address, read_path
from quarantine.gateway.connection import UNAVAILABLE, Connection, normalise_ip
from quarantine.gateway.inlet import Chunks, Data
from quarantine.gateway.memory import Share
from quarantine.gateway.recipients import Undecided
from quarantine.gateway.replies import Reply
from quarantine.gateway.services import Services
from quarantine.gateway.story import CAUSES, MAX_SAID, Declined, Mail, name_outcome
from quarantine.gateway.xclient import read_xclient
from quarantine.intake import END_OF_DATA, Left, Recipient, Result, await_ptr
from quarantine.records import NOBODY, Transaction

log = logging.getLogger(__name__)

HTTP_VERBS = {"GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT"}
KNOWN_BUT_NOT_HERE = {"AUTH", "ETRN", "EXPN", "HELP", "SAML", "SEND", "SOML", "TURN"}
CHUNK = re.compile(rb"([0-9]{1,10})(?:[ \t]+(LAST))?", re.IGNORECASE)
UNKNOWN_PTR = PtrEvidence(PtrStatus.UNKNOWN, detail="not known yet")
MAX_SHOWN = 320  # octets of an argument that could not be read
MAX_VERB = 20
# Ends by us that say nothing about mail, once mail has come over the connection.
HARMLESS = {replies.BYE, replies.TOO_SLOW, replies.STOPPING}


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
        self._declined: Declined | None = None
        self._transactions = 0
        self._said: list[tuple[str, str]] = []  # of a connection that has not brought mail yet

    @property
    def is_under_way(self) -> bool:
        return self._mail is not None

    def begin(self) -> None:
        self._begin(self._peer)

    def _begin(self, ip: str) -> None:
        """The evidence of the client is asked for now, and awaited at RCPT."""
        self._drop_ptr()
        self._ip = ip
        self._ptr = asyncio.ensure_future(self._services.look_up_ptr(ip))
        self.forget_client()

    def _drop_ptr(self) -> None:
        if self._ptr:
            self._ptr.cancel()

    def end(self, cause: Cause, reply: Reply | None) -> None:
        """What is open is put on record, and so is a connection that brought no mail."""
        self._settle()
        if self._mail:
            self._leave(cause, reply)
        elif not self._transactions and reply is None and cause is Cause.DISCONNECTED:
            self._note(Cause.NO_MAIL, None)
        elif not self._transactions or (reply and reply not in HARMLESS):
            self._note(cause, reply)
        self._drop_ptr()

    def forget_client(self) -> None:
        self._leave(Cause.RESET)
        self._helo, self._extended = "", False

    def _forget_mail(self) -> None:
        if self._chunks:
            self._chunks.close()
        self._mail = self._chunks = self._broken = None

    def _settle(self) -> None:
        """Put on record what was declined at MAIL."""
        declined, self._declined = self._declined, None
        if declined:
            mail, cause, reply = declined.mail, declined.cause, declined.reply
            if not self._services.intake.note_left(self._sketch(mail), mail.left.values()):
                self._note(cause, reply, mail)

    def _overhear(self, argument: bytes) -> None:
        if self._declined:
            mail, cause, reply = self._declined.mail, self._declined.cause, self._declined.reply
            address, problem = self._read_recipient(argument, mail)
            domain = None if problem else self._services.recipients.recall_domain(address)
            if domain:
                mail.put_off(address, domain, cause, reply)

    def _leave(self, cause: Cause, reply: Reply | None = None) -> None:
        """The transaction, if there is one, ends without a message: by the client, or by us with a reply."""
        self._settle()
        mail = self._mail
        self._forget_mail()
        if mail is None:
            return
        if reply:
            mail.say(cause.label, reply)
        transaction = self._sketch(mail)
        if (
            not self._services.intake.note_left(transaction, mail.list_left(cause, reply), mail.filed)
            and not mail.refused
        ):
            self._services.ledger.add(transaction, cause, name_outcome(cause, reply), str(reply or ""))

    def _note(self, cause: Cause, reply: Reply | None, mail: Mail | None = None, recipient: str = "") -> None:
        """Put on the operator's record what reached no provider."""
        said = tuple((NOBODY, command, text) for command, text in self._said)
        transaction = self._sketch(mail) if mail else replace(self._sketch(Mail("", utf8=True)), said=said)
        self._services.ledger.add(transaction, cause, name_outcome(cause, reply), str(reply or ""), recipient)

    def answered(self, name: str, reply: Reply) -> None:
        if len(self._said) < MAX_SAID and not self._transactions:
            self._said.append((name[:MAX_VERB], str(reply)))

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
        self._leave(Cause.RESET)
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
        self._settle()
        self._transactions += 1
        mail, reply = self._read_mail(argument)
        mail.say(f"MAIL FROM:<{mail.sender}>", reply)
        if reply.is_error:
            self._declined = Declined(mail, CAUSES[reply], reply)
        else:
            self._mail, self._broken = mail, None
        return reply

    def _read_mail(self, argument: bytes) -> tuple[Mail, Reply]:
        nobody = Mail(show(argument), utf8=True)
        try:
            path = read_path(argument, b"FROM:")
            utf8 = "SMTPUTF8" in path.parameters
            mail = Mail(read_address(path.text, utf8=utf8), utf8)
        except SyntaxProblem:
            return nobody, replies.MAIL_SYNTAX
        except NeedsUtf8Error:
            return nobody, replies.SMTPUTF8_NEEDED
        except AddressError:
            return nobody, replies.BAD_SENDER
        return mail, self._check_mail_parameters(path) or replies.SENDER_OK

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
        mail = self._mail
        if mail is None:
            self._overhear(argument)
            return replies.SEND_MAIL_FIRST if self._helo else replies.SEND_HELO_FIRST
        if self._chunks or self._broken:
            return replies.BDAT_UNDER_WAY
        address, problem = self._read_recipient(argument, mail)
        if problem:
            mail.say(f"RCPT {show(argument)}", problem, NOBODY)
            self._note(Cause.SYNTAX, problem, mail, show(argument))
            return problem
        domain = self._services.recipients.recall_domain(address)
        if len(mail.recipients) >= self._limits.recipients:
            mail.put_off(address, domain, Cause.TOO_MANY_RECIPIENTS, replies.TOO_MANY_RECIPIENTS)
            return replies.TOO_MANY_RECIPIENTS
        try:
            return await self._admit(mail, address)
        except Exception as error:
            mail.put_off(address, domain, name_cause(error), replies.TEMPORARY)
            raise
        except asyncio.CancelledError:
            mail.leave(Left(address, domain, None, Cause.DISCONNECTED, "", "unfinished"))
            raise

    def _read_recipient(self, argument: bytes, mail: Mail) -> tuple[str, Reply | None]:
        try:
            path = read_path(argument, b"TO:")
            address = read_address(path.text, utf8=mail.utf8)
        except SyntaxProblem:
            return "", replies.RCPT_SYNTAX
        except NeedsUtf8Error:
            return "", replies.SMTPUTF8_NEEDED
        except AddressError:
            return "", replies.BAD_RECIPIENT
        if path.parameters:
            return address, replies.UNKNOWN_PARAMETER
        return address, None if address else replies.RCPT_SYNTAX

    async def _admit(self, mail: Mail, address: str) -> Reply:
        """Accept or refuse a recipient; a refusal is on record before it is said."""
        found = await self._services.recipients.find(address, is_welcome=self._is_welcome)
        if isinstance(found, Undecided):
            mail.put_off(address, found.domain, Cause.UNVERIFIED, replies.UNVERIFIED, found.reason)
            return replies.UNVERIFIED
        if isinstance(found, Addressee):
            recipient = Recipient(address if "@" in address else found.address, found)
            refusal = await self._refuse_client(mail, recipient)
            if refusal is None:
                mail.take(recipient)
                return replies.RECIPIENT_OK
        else:
            refusal = await self._refuse_recipient(mail, address, found)
        log.info("recipient_refused trace=%s client=%s code=%d", mail.trace_id, self._ip, refusal.code)
        return refusal

    async def _is_welcome(self, addressee: Addressee) -> bool:
        """Whether the client is not refused for what it is."""
        return await self._judge_client(addressee) is None

    async def _judge_client(self, addressee: Addressee) -> ClientRefusal | None:
        ptr = await self._await_ptr()
        return await self._services.intake.judge_client(self._ip, ptr, addressee, datetime.now(UTC))

    async def _refuse_client(self, mail: Mail, recipient: Recipient) -> Reply | None:
        refusal = await self._judge_client(recipient.addressee)
        if refusal is None:
            return None
        reply = replies.refuse(refusal.code, refusal.enhanced, refusal.text)
        mail.refuse(recipient.given, recipient.addressee, reply)
        await self._services.intake.record_refused_client(self._sketch(mail), recipient, refusal, str(reply))
        return reply

    async def _refuse_recipient(self, mail: Mail, address: str, found: UnknownMailbox | None) -> Reply:
        intake = self._services.intake
        await self._await_ptr()
        reply = replies.UNKNOWN_MAILBOX if found else replies.RELAY_DENIED
        mail.refuse(address, found, reply)
        if found is None:
            await intake.record_relay_denied(self._sketch(mail), address, str(reply))
        else:
            await intake.record_unknown_mailbox(self._sketch(mail), address, found, str(reply))
        return reply

    async def _await_ptr(self) -> PtrEvidence:
        assert self._ptr is not None  # noqa: S101 - begun with the session
        return await await_ptr(self._ptr)

    def _sketch(self, mail: Mail) -> Transaction:
        """The transaction as far as it is known now; nothing is waited for."""
        ptr = self._ptr.result() if self._ptr and self._ptr.done() and not self._ptr.cancelled() else UNKNOWN_PTR
        return Transaction(
            trace_id=mail.trace_id,
            received_at=datetime.now(UTC),
            client_ip=self._ip or self._peer,
            sender=mail.sender,
            helo=self._stated_helo or self._helo,
            tls=self._tls,
            ptr=ptr,
            said=tuple(mail.said),
        )

    async def smtp_DATA(self, argument: bytes) -> Reply:  # noqa: N802
        if argument:
            return replies.NO_ARGUMENT_WANTED
        if self._chunks or self._broken:
            return replies.BDAT_UNDER_WAY
        if refusal := self._refuse_content("DATA"):
            return refusal
        assert self._mail is not None  # noqa: S101 - else its content would have been refused
        self._send(replies.GO_AHEAD)
        self._mail.say("DATA", replies.GO_AHEAD)
        share = Share(self._services.memory, self._ip)
        try:
            data = await self._inlet.read_data(limit=self._limits.message_octets, pace=self._limits.pace, share=share)
        except BaseException:
            share.empty()
            raise
        return await self._take(data, share.empty)

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
        refusal = self._broken or self._refuse_content("BDAT")
        chunks = self._start_chunks(0) if refusal else self._chunks or self._start_chunks(self._limits.message_octets)
        self._chunks = None if refusal else chunks
        await self._inlet.read_chunk(size, into=chunks, pace=self._limits.pace)
        if refusal:
            self._broken = None if is_last else refusal
            return refusal
        if is_last:
            return await self._take(chunks.get_data(), chunks.close)
        if chunks.is_dropped:
            # No room for this chunk: the message ends here. To what else comes of it the answer is the same, as a
            # client that pipelines may go by the last.
            reply = await self._take(chunks.get_data(), chunks.close)
            self._broken = reply
            return reply
        return replies.CHUNK_OK

    def _start_chunks(self, limit: int) -> Chunks:
        return Chunks(limit=limit, share=Share(self._services.memory, self._ip), began=self._loop.time())

    def _refuse_content(self, command: str) -> Reply | None:
        mail = self._mail
        if mail is None:
            return replies.SEND_MAIL_FIRST if self._helo else replies.SEND_HELO_FIRST
        if mail.recipients:
            return None
        reply = replies.NO_VALID_RECIPIENTS if mail.refused else replies.SEND_RCPT_FIRST
        reply = replies.TEMPORARY if mail.left else reply
        mail.say(command, reply)
        return reply

    async def _take(self, data: Data, give_back: Callable[[], None]) -> Reply:
        """See a message that has come whole to its end, whatever becomes of the client meanwhile: its 250 may be lost,
        and then it sends again. The memory is given back when nobody needs it.
        """
        mail = self._mail
        assert mail is not None  # noqa: S101 - else its content would have been refused
        self._messages += 1
        self._mail = self._chunks = None  # from now on it is not the connection's
        work = asyncio.ensure_future(self._receive(mail, data))
        self._services.pending.add(work)
        work.add_done_callback(self._services.pending.discard)
        work.add_done_callback(lambda _: give_back())
        return await asyncio.shield(work)

    async def _receive(self, mail: Mail, data: Data) -> Reply:
        begun = self._loop.time()
        try:
            reply = await self._decide(mail, data)
        except Exception as error:  # noqa: BLE001 - the sender is told to come again, and it is on record
            cause, reply = name_cause(error), replies.TEMPORARY
            log.error("message_deferred trace=%s client=%s error=%s", mail.trace_id, self._ip, name_fault(error))
            self._put_off(mail, cause, reply)
        metrics.RECEIVED_BYTES.inc(data.size)
        metrics.DATA_REPLY_SECONDS.observe(self._loop.time() - begun)
        details = (mail.trace_id, self._ip, len(mail.recipients), data.size, reply.code)
        log.info("message trace=%s client=%s recipients=%d octets=%d code=%d", *details)
        return reply

    def _put_off(self, mail: Mail, cause: Cause, reply: Reply) -> None:
        mail.say(END_OF_DATA, reply)
        self._services.intake.note_left(self._sketch(mail), mail.list_left(cause, reply), mail.filed)

    async def _decide(self, mail: Mail, data: Data) -> Reply:
        intake, transaction = self._services.intake, self._sketch(mail)
        recipients, left = list(mail.recipients.values()), list(mail.left.values())
        if data.octets is None and data.size <= self._limits.message_octets:
            self._put_off(mail, Cause.NO_ROOM, replies.NO_ROOM)
            return replies.NO_ROOM
        if data.octets is None:
            reply = replies.TOO_BIG
            await intake.record_refused_message(
                transaction, recipients, left, size=data.size, reply=str(reply), cause=Cause.TOO_BIG
            )
            return reply
        answers = make_answers(mail.trace_id)
        texts = {result: str(answer) for result, answer in answers.items()}
        received = await intake.receive(transaction, recipients, data.octets, texts, left)
        if received.trace_id != mail.trace_id:  # it was taken before
            return replies.accept(received.trace_id)
        return answers[received.result]

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


def name_cause(error: Exception) -> Cause:
    return Cause.UNAVAILABLE if isinstance(error, UNAVAILABLE) else Cause.FAULT


def show(argument: bytes) -> str:
    """What a client wrote, as far as it can be read."""
    return argument[:MAX_SHOWN].decode("utf-8", "replace")


def make_answers(trace_id: str) -> dict[Result, Reply]:
    return {
        Result.KEPT: replies.accept(trace_id),
        Result.REFUSED: replies.refuse_content(trace_id),
        Result.LOOPING: replies.LOOPING,
    }
