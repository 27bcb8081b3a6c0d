"""What happens in a session, as the trace tells it: an open transaction, and connections that brought none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from portal.tenants.directory import Addressee, ServedDomain, UnknownMailbox
from quarantine.causes import Cause
from quarantine.gateway import replies
from quarantine.gateway.replies import Reply
from quarantine.intake import Left, Recipient
from quarantine.records import EVERYBODY, MAX_REPLIES, NOBODY, Said, Transaction, Unrouted
from quarantine.trace_id import make_trace_id

FLUSH_SECONDS = 1.0
IDLE_SECONDS = 60  # health checks connect all the time
MAX_DIFFERENT = 500  # rows a flush; from there on only clients are told apart, and from twice that nobody
MAX_SAID = 20  # replies of a connection without mail that are kept
MAX_LEFT = 1000  # recipients put off that are kept, by transaction
MAX_COMMAND = 400  # characters of a command that are kept

SYNTAX_REPLIES = (
    *(replies.MAIL_SYNTAX, replies.RCPT_SYNTAX, replies.BAD_SENDER, replies.BAD_RECIPIENT),
    *(replies.SMTPUTF8_NEEDED, replies.UNKNOWN_PARAMETER, replies.BAD_BODY, replies.BAD_SIZE, replies.BAD_SMTPUTF8),
)
CAUSES = dict.fromkeys(SYNTAX_REPLIES, Cause.SYNTAX) | {
    replies.TOO_BIG: Cause.TOO_BIG,
    replies.NO_ROOM: Cause.NO_ROOM,
    replies.TEMPORARY: Cause.FAULT,
    replies.TOO_MANY_RECIPIENTS: Cause.TOO_MANY_RECIPIENTS,
    replies.TOO_MANY_MESSAGES: Cause.TOO_MANY_MESSAGES,
    replies.TOO_MANY_ERRORS: Cause.TOO_MANY_ERRORS,
    replies.TOO_MANY_COMMANDS: Cause.TOO_MANY_COMMANDS,
    replies.TOO_MANY_CONNECTIONS: Cause.TOO_MANY_CONNECTIONS,
    replies.TOO_BUSY: Cause.OVERLOAD,
    replies.LAGGING: Cause.OVERLOAD,
    replies.OVERLOADED: Cause.OVERLOAD,
    replies.CANNOT_STORE: Cause.UNAVAILABLE,
    replies.NO_SPACE: Cause.NO_SPACE,
    replies.BAD_PROXY: Cause.BAD_PROXY,
    replies.EARLY_TALKER: Cause.EARLY_TALKER,
    replies.NOT_SMTP: Cause.NOT_SMTP,
    replies.STOPPING: Cause.STOPPING,
    replies.NOT_READY: Cause.UNAVAILABLE,
    replies.OUT_OF_STEP: Cause.SYNTAX,
    replies.TOO_SLOW: Cause.TIMEOUT,
}


@dataclass(slots=True)
class Mail:
    """An open mail transaction. `sender` is empty for the null path. Recipients are known by lower-case address: said
    twice, kept once.
    """

    sender: str
    utf8: bool
    trace_id: str = field(default_factory=make_trace_id)
    deferral: tuple[Reply, Cause] | None = None  # what all its recipients are told
    recipients: dict[str, Recipient] = field(default_factory=dict)
    left: dict[str, Left] = field(default_factory=dict)  # put off by us
    said: list[Said] = field(default_factory=list)
    filed: set[str] = field(default_factory=set)  # providers with a refusal of it on record
    refused: set[str] = field(default_factory=set)  # recipients
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    octets: int = 0  # of its content, where the end of that did not come
    is_told: bool = False  # the reply to the command under way

    @property
    def seconds(self) -> float:
        """Since it began."""
        return max((datetime.now(UTC) - self.began_at).total_seconds(), 0.0)

    def say(self, command: str, reply: Reply, whose: str = EVERYBODY) -> None:
        """Put on record what is answered, which is signed."""
        self.tell(command, self.sign(reply), whose)

    def tell(self, command: str, reply: Reply, whose: str = EVERYBODY) -> None:
        """Put on record what was answered, as it is."""
        self.is_told = True
        if len(self.said) >= MAX_REPLIES:
            self.said.pop()
        self.said.append(Said(whose, command[:MAX_COMMAND], str(reply), self.seconds))

    def sign(self, reply: Reply) -> Reply:
        return replies.sign(reply, self.trace_id)

    def leave(self, left: Left) -> None:
        if len(self.left) < MAX_LEFT:
            self.left[left.given.lower()] = left

    def take(self, recipient: Recipient) -> None:
        key = recipient.given.lower()
        self.recipients.setdefault(key, recipient)
        self.left.pop(key, None)
        self._say_to(recipient.given, recipient.addressee.domain, replies.RECIPIENT_OK)

    def refuse(self, given: str, found: Addressee | UnknownMailbox | None, reply: Reply) -> None:
        self.refused.add(given.lower())
        self._say_to(given, found.domain if found else None, reply)
        if found:
            self.filed.add(found.domain.schema)

    def put_off(
        self,
        given: str,
        domain: ServedDomain | None,
        cause: Cause,
        reply: Reply,
        reason: str = "",
        said: Reply | None = None,
    ) -> None:
        """A recipient that is not taken, because of this reply; `reason` where more is known than the cause, `said`
        where it was told something else.
        """
        self.leave(Left(given, domain, None, cause, str(self.sign(reply)), name_outcome(cause, reply), reason))
        self._say_to(given, domain, said or reply)

    def _say_to(self, given: str, domain: ServedDomain | None, reply: Reply) -> None:
        self.say(f"RCPT TO:<{given}>", reply, domain.schema if domain else NOBODY)

    def list_left(self, cause: Cause, reply: Reply | None) -> list[Left]:
        """All recipients that are neither taken nor refused, when the transaction ends for this reason."""
        text, outcome = self._recall_answer(reply), name_outcome(cause, reply)
        reason = f"{cause.label}, after {self.octets:,} octets of content" if self.octets else ""
        ended = [
            Left(each.given, each.addressee.domain, each.addressee.mailbox_id, cause, text, outcome, reason)
            for each in self.recipients.values()
        ]
        return [*self.left.values(), *ended]

    def _recall_answer(self, reply: Reply | None) -> str:
        """The last that recipients who are taken heard: this one, what all heard, or what was said to each of them."""
        if reply:
            return str(self.sign(reply))
        last = self.said[-1]
        return last.reply if last.whose == EVERYBODY else str(replies.RECIPIENT_OK)


def name_outcome(cause: Cause, reply: Reply | None) -> str:
    """Who ended it: we, for good or for now, or a client that did not go on."""
    if reply is None or cause is Cause.TIMEOUT:
        return "unfinished"
    return "deferred" if reply.code < 500 else "refused"


@dataclass(frozen=True, slots=True)
class Declined:
    """A transaction that was refused at MAIL. A client that pipelines has named its recipients already."""

    mail: Mail
    cause: Cause
    reply: Reply


class Ledger:
    """Notes of what reached no provider. Alike ones of one moment share a row, so that a flood costs a few: the first
    one's, under its trace id.
    """

    def __init__(self, note: Callable[[Unrouted], None]) -> None:
        self._note = note
        self._entries: dict[tuple[str, ...], Unrouted] = {}
        self._idle: dict[tuple[str, ...], Unrouted] = {}  # no mail: these wait longer, and take nobody's place
        self._timer: asyncio.TimerHandle | None = None

    def add(self, transaction: Transaction, cause: Cause, reply: Reply | None, recipient: str = "") -> None:
        """It is on record within a second or two; that somebody connected and sent no mail, within a minute."""
        said = str(replies.sign(reply, transaction.trace_id)) if reply else ""
        outcome = name_outcome(cause, reply)
        entry = Unrouted(transaction, recipient, said, cause, outcome)
        entries = self._idle if cause is Cause.NO_MAIL else self._entries
        client = transaction.client_ip
        keys = (
            (client, transaction.sender, recipient, outcome, cause, str(reply)),
            (client, outcome, cause),
            (outcome, cause),
        )
        for key, limit in zip(keys, (MAX_DIFFERENT, 2 * MAX_DIFFERENT, math.inf), strict=True):
            if key in entries:
                entries[key] = replace(entries[key], times=entries[key].times + 1)
                break
            if len(entries) < limit:
                entries[key] = entry if key is keys[0] else make_vague(entry, keeps_client=key is keys[1])
                break
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._hand_in(self._entries)
        oldest = next(iter(self._idle.values()), None)
        if oldest and oldest.transaction.received_at < datetime.now(UTC) - timedelta(seconds=IDLE_SECONDS):
            self._hand_in(self._idle)
        if self._idle:
            self._set_timer()

    def _hand_in(self, entries: dict[tuple[str, ...], Unrouted]) -> None:
        for entry in entries.values():
            self._note(entry)
        entries.clear()

    def close(self) -> None:
        """Hand in what is left."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._hand_in(self._entries)
        self._hand_in(self._idle)


def make_vague(entry: Unrouted, *, keeps_client: bool) -> Unrouted:
    """What is left of one of too many."""
    known = entry.transaction
    client = known.client_ip if keeps_client else ""
    return replace(entry, transaction=Transaction(known.trace_id, known.received_at, client, ""), recipient="")
