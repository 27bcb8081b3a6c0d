"""The commands of an SMTP session. Each hook is short, knows no table, and returns its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

from filtering.pipeline import ClientRefusal
from portal.tenants.directory import Addressee, UnknownMailbox
from quarantine.causes import Cause
from quarantine.gateway import replies
from quarantine.gateway.addresses import AddressError, NeedsUtf8Error, Path, SyntaxProblem, read_address, read_path
from quarantine.gateway.client import read_recipient
from quarantine.gateway.connection import find_cause, normalise_ip
from quarantine.gateway.content import ContentSession
from quarantine.gateway.recipients import Undecided
from quarantine.gateway.replies import Reply
from quarantine.gateway.story import CAUSES, Declined, Mail
from quarantine.gateway.xclient import read_xclient
from quarantine.intake import Left, Recipient
from quarantine.records import NOBODY

log = logging.getLogger(__name__)

HTTP_VERBS = {"GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT"}
KNOWN_BUT_NOT_HERE = {"AUTH", "ETRN", "EXPN", "HELP", "SAML", "SEND", "SOML", "TURN"}
TLS_HANDSHAKE = "\x16\x03"  # the first octets of a client that wants TLS without asking (RFC 8446 section 5.1)
PROBLEMS = {
    SyntaxProblem: replies.MAIL_SYNTAX,
    NeedsUtf8Error: replies.SMTPUTF8_NEEDED,
    AddressError: replies.BAD_SENDER,
}
MAX_SHOWN = 320  # octets of an argument that could not be read


class Session(ContentSession):
    """SMTP as RFC 5321 has it for a relay that takes mail for its own domains only."""

    async def obey(self, name: str, argument: bytes) -> Reply:
        if command := self.COMMANDS.get(name):
            return await command(self, argument)
        if name in HTTP_VERBS or name.startswith(TLS_HANDSHAKE):
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
        self._open(mail).say(f"MAIL {show(argument)}", reply)
        self._broken = None
        if reply.is_error:
            self._declined = Declined(mail, CAUSES[reply], reply)
        else:
            self._mail = mail
        return reply

    def _read_mail(self, argument: bytes) -> tuple[Mail, Reply]:
        try:
            path = read_path(argument, b"FROM:")
            utf8 = "SMTPUTF8" in path.parameters
            mail = Mail(read_address(path.text, utf8=utf8), utf8)
        except (SyntaxProblem, AddressError) as error:
            given = show(argument).strip()
            given = given[len("FROM:") :] if given.upper().startswith("FROM:") else given
            return Mail(given.strip(" \t<>"), utf8=True), PROBLEMS[type(error)]
        if problem := self._check_mail_parameters(path):
            return mail, problem
        mail.deferral = self._find_deferral(int(path.parameters.get("SIZE") or 0))
        return mail, replies.SENDER_OK

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
        return None

    def _find_deferral(self, octets: int) -> tuple[Reply, Cause] | None:
        """Why a message of this size could not be taken now. It is said to each recipient, not to MAIL: so that it is
        on record who waits for mail that was put off.
        """
        if not self._services.memory.has_room(self._ip, octets):
            return replies.NO_ROOM, Cause.NO_ROOM
        return self._services.load.refuse_mail(self._ip)

    async def smtp_RCPT(self, argument: bytes) -> Reply:  # noqa: N802
        mail = self._mail
        if mail is None:
            said = replies.SEND_MAIL_FIRST if self._helo else replies.SEND_HELO_FIRST
            self._overhear(argument, said)
            return said
        if self._chunks or self._broken:
            mail.say(f"RCPT {show(argument)}", replies.BDAT_UNDER_WAY, self._whose(argument, mail))
            return replies.BDAT_UNDER_WAY
        address, problem = read_recipient(argument, utf8=mail.utf8)
        if problem:
            mail.say(f"RCPT {show(argument)}", problem, NOBODY)
            self._note(Cause.SYNTAX, problem, mail, show(argument))
            return problem
        domain, deferral = self._services.recipients.recall_domain(address), mail.deferral
        if len(mail.recipients) >= self._limits.recipients:
            deferral = replies.TOO_MANY_RECIPIENTS, Cause.TOO_MANY_RECIPIENTS
        if deferral:
            reply, cause = deferral
            # It is not looked at whether they are there: nobody is to name a thousand.
            self._failed_recipients += deferral is mail.deferral
            mail.put_off(address, domain, cause, reply)
            return reply
        try:
            return await self._admit(mail, address)
        except Exception as error:
            mail.put_off(address, domain, find_cause(error), replies.TEMPORARY)
            raise
        except asyncio.CancelledError:
            if address.lower() not in mail.refused:  # whose refusal is being put on record
                mail.leave(Left(address, domain, None, Cause.DISCONNECTED, "", "unfinished"))
            raise

    def _whose(self, argument: bytes, mail: Mail) -> str:
        """Whom it concerns what is said to a RCPT that is not looked at."""
        address, problem = read_recipient(argument, utf8=mail.utf8)
        domain = None if problem else self._services.recipients.recall_domain(address)
        return domain.schema if domain else NOBODY

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
        await self._services.intake.record_refused_client(self._sketch(mail), recipient, refusal, str(mail.sign(reply)))
        return reply

    async def _refuse_recipient(self, mail: Mail, address: str, found: UnknownMailbox | None) -> Reply:
        intake = self._services.intake
        await self._await_ptr()
        reply = replies.UNKNOWN_MAILBOX if found else replies.RELAY_DENIED
        mail.refuse(address, found, reply)
        said = str(mail.sign(reply))
        if found is None:
            await intake.record_relay_denied(self._sketch(mail), address, said)
        else:
            await intake.record_unknown_mailbox(self._sketch(mail), address, found, said)
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
        "DATA": ContentSession.smtp_DATA,
        "BDAT": ContentSession.smtp_BDAT,
    }


def show(argument: bytes) -> str:
    """What a client wrote, as far as it can be read."""
    return argument[:MAX_SHOWN].decode("utf-8", "replace")
