"""Who the client is, what it has open, and what is put on record of it. Knows no command."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from filtering.evidence import NOT_KNOWN_YET, PtrEvidence, PtrStatus
from quarantine.causes import Cause
from quarantine.gateway import replies
from quarantine.gateway.addresses import AddressError, NeedsUtf8Error, SyntaxProblem, read_address, read_path
from quarantine.gateway.connection import Connection
from quarantine.gateway.inlet import Chunks
from quarantine.gateway.replies import Reply
from quarantine.gateway.services import Services
from quarantine.gateway.story import MAX_SAID, Declined, Mail
from quarantine.intake import await_ptr
from quarantine.records import Transaction

NOT_ASKED = PtrEvidence(PtrStatus.SKIPPED, detail="not asked: the connection ended before the greeting")
MAX_VERB = 20
OF_MAIL = {"MAIL", "RCPT", "DATA", "BDAT"}
CONNECTED = "CONNECT"  # what is answered with the greeting is called so
NO_COMMAND = "(no command)"  # an empty line, or one that is too long
PROBE = [CONNECTED, "QUIT"]  # all that /healthz does
# Ends by us that say nothing about mail, once mail has come over the connection.
HARMLESS = {replies.BYE, replies.TOO_SLOW, replies.STOPPING}


class ClientSession(Connection):
    """A connection whose client and whose open transaction are known. However it ends, it leaves a trace."""

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
        self._said: list[tuple[str, Reply]] = []  # since the last transaction, and told to the next
        self._is_told = False  # the reply to the command under way, of a transaction that is over

    @property
    def is_under_way(self) -> bool:
        return self._mail is not None

    @property
    def is_probe(self) -> bool:
        is_like_one = len(self._said) == len(PROBE) and [command for command, _ in self._said] == PROBE
        return is_like_one and (self._peer == self._own_ip or self._services.is_ours(self._peer))

    def begin(self) -> None:
        self._begin(self._peer)
        self.answered(CONNECTED, replies.greet(self.hostname))

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
        self._drop_ptr()
        if self.is_probe:
            return
        self._settle()
        if self._mail:
            self._leave(cause, reply)
        elif not self._transactions and cause in {Cause.QUIT, Cause.DISCONNECTED}:
            self._note(Cause.NO_MAIL, None)
        elif not self._transactions or (reply and reply not in HARMLESS) or self._has_erred():
            self._tell_end(cause, reply)
            self._note(cause, reply)

    def _tell_end(self, cause: Cause, reply: Reply | None) -> None:
        """Have our last words told, where they answered no command; to whom was not greeted they are the first."""
        if reply and reply not in [said for _, said in self._said[-1:]]:
            self._said.append((CONNECTED if self._ptr is None else cause.label, reply))

    def _has_erred(self) -> bool:
        """Whether an error was answered that no transaction tells of."""
        return any(reply.is_error and not reply.is_last for _, reply in self._said)

    def forget_client(self) -> None:
        self._leave(Cause.RESET)
        self._helo, self._extended = "", False

    def _forget_mail(self) -> None:
        if self._chunks:
            self._chunks.close()
        self._mail = self._chunks = self._broken = None

    def _settle(self) -> None:
        """Put on record what was refused at MAIL."""
        declined, self._declined = self._declined, None
        if declined:
            mail, cause, reply = declined.mail, declined.cause, declined.reply
            if not self._services.intake.note_left(self._sketch(mail), mail.left.values()):
                self._note(cause, reply, mail)

    def _overhear(self, argument: bytes, said: Reply) -> None:
        """Of a transaction that was refused at MAIL a client that pipelines names the recipients all the same."""
        if self._declined:
            mail, cause, reply = self._declined.mail, self._declined.cause, self._declined.reply
            address, problem = read_recipient(argument, utf8=mail.utf8)
            domain = None if problem else self._services.recipients.recall_domain(address)
            if domain:
                mail.put_off(address, domain, cause, reply, said=said)

    def _leave(self, cause: Cause, reply: Reply | None = None) -> None:
        """The transaction, if there is one, ends without a message: by the client, or by us with a reply."""
        self._settle()
        mail, chunks = self._mail, self._chunks
        self._forget_mail()
        if mail is None:
            return
        if chunks:
            mail.octets = chunks.size
        if reply:
            mail.say(cause.label, reply)
        transaction = replace(self._sketch(mail), received_at=mail.began_at)  # nothing was, and that is when it came
        if (
            not self._services.intake.note_left(transaction, mail.list_left(cause, reply), mail.filed)
            and not mail.refused
        ):
            self._services.ledger.add(transaction, cause, reply)

    def _note(self, cause: Cause, reply: Reply | None, mail: Mail | None = None, recipient: str = "") -> None:
        """Put on the operator's record what reached no provider."""
        self._services.ledger.add(self._sketch(mail or self._open(Mail("", utf8=True))), cause, reply, recipient)

    def _open(self, mail: Mail) -> Mail:
        """The mail, which tells what was said before it, too."""
        for command, reply in self._said:
            mail.tell(command, reply)
        self._said.clear()
        return mail

    def sign(self, name: str, reply: Reply) -> Reply:
        mail = self._mail or (self._declined and self._declined.mail)
        return mail.sign(reply) if mail and name in OF_MAIL else reply

    def answered(self, name: str, reply: Reply) -> None:
        """Have it told: by the open transaction (which knows best itself), else by the next, or by the connection."""
        command = name[:MAX_VERB] or NO_COMMAND
        mail = self._mail or (self._declined and self._declined.mail)
        if mail:
            if not mail.is_told:
                mail.tell(command, reply)
            mail.is_told = False
        elif not self._is_told and len(self._said) < MAX_SAID:
            self._said.append((command, reply))
        self._is_told = False

    async def _await_ptr(self) -> PtrEvidence:
        assert self._ptr is not None  # noqa: S101 - begun with the session
        return await await_ptr(self._ptr)

    def _sketch(self, mail: Mail) -> Transaction:
        """The transaction as far as it is known now; nothing is waited for."""
        return Transaction(
            trace_id=mail.trace_id,
            received_at=datetime.now(UTC),
            client_ip=self._ip or self._peer,
            sender=mail.sender,
            helo=self._stated_helo or self._helo,
            tls=self._tls,
            ptr=self._recall_ptr(),
            said=tuple(mail.said),
            seconds=mail.seconds,
        )

    def _recall_ptr(self) -> PtrEvidence:
        if self._ptr is None:
            return NOT_ASKED
        return self._ptr.result() if self._ptr.done() and not self._ptr.cancelled() else NOT_KNOWN_YET


def read_recipient(argument: bytes, *, utf8: bool) -> tuple[str, Reply | None]:
    """The address in the argument of RCPT, or what is answered where there is none."""
    try:
        path = read_path(argument, b"TO:")
        address = read_address(path.text, utf8=utf8)
    except SyntaxProblem:
        return "", replies.RCPT_SYNTAX
    except NeedsUtf8Error:
        return "", replies.SMTPUTF8_NEEDED
    except AddressError:
        return "", replies.BAD_RECIPIENT
    if path.parameters:
        return address, replies.UNKNOWN_PARAMETER
    return address, None if address else replies.RCPT_SYNTAX
