"""The one way in: a message that was received is looked at, judged for each recipient, and kept."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from psycopg import Error

from filtering.evidence import ClassifierEvidence, ContentEvidence, Evidence, PtrEvidence, PtrStatus
from filtering.evidence.content import read_content
from filtering.learning.classifier import Classifier
from filtering.message import InboundMessage, Peer
from filtering.pipeline import ClientRefusal, judge, judge_client
from filtering.policy.releases import LIVE_RELEASE, UnusableRelease, read_live
from filtering.policy.values import Policy, PtrException, ReleasePolicy, Rule
from filtering.verdict import Action, Category, Verdict
from portal.tenants.database import Pool, finish_within
from portal.tenants.directory import (
    Addressee,
    Directory,
    PtrExceptionRow,
    SenderRuleRow,
    ServedDomain,
    UnknownMailbox,
)
from portal.tenants.urls import make_portal_url
from quarantine.causes import Cause
from quarantine.content import compress
from quarantine.examiners import Examiners
from quarantine.models import State
from quarantine.records import END_OF_DATA, EVERYBODY, Filing, Outcome, Said, Transaction, Unrouted, get_owner
from quarantine.store import Store

log = logging.getLogger(__name__)

EVIDENCE_SECONDS = 20.0  # for all evidence of a message together
MAX_UNROUTED = 10  # rows of a transaction, for recipients that are no provider's
MANY_RECIPIENTS = 10  # from here on the event loop would feel it
RELEASE_SECONDS = 10.0  # to read the live policy release
MAX_RECEIVED_HEADERS = 100  # more is a loop (RFC 5321 6.3)
MAX_HEADER_OCTETS = 1024 * 1024  # in which they are counted
MAX_OWN_TRACES = 1  # a message that has been here twice goes round
EMPTY_LINES = (b"\n\r\n", b"\n\n", b"\r\r")
OWN_TRACE = b"\nx-lazaret-trace:"
UNJUDGED = Verdict(Action.REFUSE, Category.POLICY, 0.0, (), 0)


class IntakeUnavailableError(Exception):
    """It cannot be judged now: the sender must try again later. Nothing is ever taken in unjudged."""


class Result(Enum):
    """What the sender is to be told about the message as a whole."""

    KEPT = "kept"
    REFUSED = "refused"  # every recipient's verdict was a refusal
    LOOPING = "looping"
    RETURNED = "returned"  # it has been here before


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient that was accepted: the address as it was given, and whom it means."""

    given: str
    addressee: Addressee

    def move_into(self, mailbox_id: int | None) -> Recipient:
        """The same with this mailbox; None: with the one there was."""
        if mailbox_id is None:
            return self
        return replace(self, addressee=replace(self.addressee, mailbox_id=mailbox_id))


@dataclass(frozen=True, slots=True)
class Left:
    """A recipient of a transaction that brought no message."""

    given: str
    domain: ServedDomain | None  # None: nobody's, or it could not be asked
    mailbox_id: int | None
    cause: Cause
    reply: str  # the last that was given about it
    event: str  # deferred: we said 4xx; refused: we said 5xx to the sender; unfinished: the client did not go on
    reason: str = ""  # in more words than the cause's


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a message, and the trace id under which it is found: of a message sent again, the first one's."""

    result: Result
    trace_id: str


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found out about the octets, away from the event loop."""

    content: ContentEvidence
    classifier: dict[str, ClassifierEvidence]  # by provider
    sha256: bytes
    stored: tuple[int, bytes]
    hops: int = 0
    own_traces: int = 0


PolicyKey = tuple[str, bool, str, str, str, tuple[SenderRuleRow, ...], tuple[PtrExceptionRow, ...]]


class Intake:
    """Judges clients at RCPT and messages at the end of DATA. One for a process."""

    def __init__(
        self,
        pool: Pool,
        directory: Directory,
        store: Store,
        classifier: Classifier,
        examiners: Examiners,
        *,
        hostname: str,
    ) -> None:
        self._pool = pool
        self._directory = directory
        self._hostname = hostname
        self._store = store
        self._classifier = classifier
        self._examiners = examiners
        self._release: ReleasePolicy | None = None
        self._changes = 0
        directory.on_public_change(self._forget_release)

    def _forget_release(self) -> None:
        self._release = None
        self._changes += 1

    async def get_release(self) -> ReleasePolicy:
        """The live policy release. Raises IntakeUnavailableError where it can neither be read nor remembered."""
        if self._release:
            return self._release
        change = self._changes
        release = await self._load_release()
        if change == self._changes:  # else the next one asks again
            self._release = release
        return release

    async def _load_release(self) -> ReleasePolicy:
        try:
            return read_live(await finish_within(RELEASE_SECONDS, self._ask_for_release()))
        except UnusableRelease as error:
            log.error("policy_release_unavailable cause=%s release=%d error=%s", error.cause, error.number, error)
            raise IntakeUnavailableError from error
        except (Error, OSError) as error:
            log.error("policy_release_unavailable cause=not_read error=%s", type(error).__name__)
            raise IntakeUnavailableError from error

    async def _ask_for_release(self) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(LIVE_RELEASE)
            return await cursor.fetchall()

    async def judge_client(self, ip: str, ptr: PtrEvidence, addressee: Addressee, at: datetime) -> ClientRefusal | None:
        """Whether the client is refused for this recipient, at that time, because of what it is.

        Raises StoreUnavailableError where a message to this recipient could not be stored at present.
        """
        self._store.check(addressee.domain.schema)
        policy = make_policy(await self.get_release(), addressee, with_rules=False)
        return judge_client(ip, ptr, policy, at)

    async def record_refused_client(
        self, transaction: Transaction, recipient: Recipient, refusal: ClientRefusal, reply: str
    ) -> None:
        """File a recipient refused at RCPT for what the client is, before the client is told."""
        verdict = Verdict(Action.REFUSE, Category.POLICY, 0.0, (refusal.finding,), (await self.get_release()).number)
        outcome = make_refusal(recipient, verdict, Cause.REVERSE_DNS, reply, refusal.finding.text)
        await self._store.keep(_make_note(transaction, recipient.addressee.domain.schema, [outcome]))

    async def record_unknown_mailbox(
        self, transaction: Transaction, given: str, unknown: UnknownMailbox, reply: str
    ) -> None:
        """File a recipient that is not there, in the provider whose domain it is."""
        outcome = make_refusal(Recipient(given, unknown.newcomer), UNJUDGED, Cause.NO_MAILBOX, reply, unknown.reason)
        await self._store.keep(_make_note(transaction, unknown.domain.schema, [outcome]))

    async def record_relay_denied(self, transaction: Transaction, given: str, reply: str) -> None:
        """File a recipient of a domain that is not ours, for the operator."""
        await self._store.keep(Unrouted(transaction, given, reply, Cause.RELAY_DENIED))

    async def record_refused_message(
        self,
        transaction: Transaction,
        recipients: Iterable[Recipient],
        left: Iterable[Left],
        *,
        size: int,
        reply: str,
        cause: Cause,
    ) -> None:
        """File a message that was refused unread for all its recipients; its content is not kept."""
        outcomes = [
            (recipient.addressee.domain.schema, make_refusal(recipient, UNJUDGED, cause, reply, cause.label))
            for recipient in recipients
        ]
        refused = {schema for schema, _ in outcomes}
        notes = [
            replace(note, size=size) if isinstance(note, Filing) else note
            for note in _make_notes(_with_answer(transaction, reply), outcomes, left)
        ]
        await self._keep(
            [note for note in notes if get_owner(note) in refused],
            [note for note in notes if get_owner(note) not in refused],
        )

    def note_left(self, transaction: Transaction, left: Iterable[Left], schemas: Iterable[str] = ()) -> bool:
        """Have it written, soon, what became of recipients of a transaction that ended without a message, and what
        was said last to those of `schemas`, whose refusals are on record. False where that is nothing.
        """
        notes = _make_notes(transaction, (), left)
        told = {note.schema for note in notes if isinstance(note, Filing)}
        notes += [_make_note(transaction, schema, ()) for schema in schemas if schema not in told]
        if notes:
            self._store.note(*notes)
        return bool(notes)

    async def receive(
        self,
        transaction: Transaction,
        recipients: list[Recipient],
        raw: bytes,
        replies: Mapping[Result, str],
        left: Iterable[Left] = (),
    ) -> Received:
        """Look at the message, judge it for every recipient, and store all that in one transaction.

        `replies` are the words that the sender will be told for each result, for the record; `left` are recipients of
        the same transaction that were not taken. When this returns, the result is on disk, or it was before: the same
        message from the same client to the same recipients within ten minutes is taken once (RFC 5321 4.5.3.2.6).

        Raises IntakeUnavailableError, StoreUnavailableError or DirectoryUnavailable when it is not: then the sender
        must be told to try again. Whatever else is raised means the same.
        """
        release = await self.get_release()
        providers = {recipient.addressee.domain.provider for recipient in recipients}
        examined = await self._examine(transaction.client_ip, raw, providers)
        evidence = {
            provider: Evidence(ptr=transaction.ptr, content=examined.content, classifier=opinion)
            for provider, opinion in examined.classifier.items()
        }
        verdicts = await self._judge(make_message(transaction, raw), evidence, release, recipients)
        result = decide((verdict for _, verdict in verdicts), examined)
        if result is Result.KEPT:
            verdicts = await self._house(verdicts)
        transaction = _with_answer(transaction, replies[result])
        filings = _make_filings(transaction, verdicts, result, replies[result], evidence, examined, size=len(raw))
        first = await self._keep(filings, _make_notes(transaction, (), left))
        return Received(result, first or transaction.trace_id)

    async def _keep(self, filings: Sequence[Filing | Unrouted], notes: Sequence[Filing | Unrouted]) -> str | None:
        """Have it all on disk at once, but for what is said of recipients who were left because their provider's tables
        are locked: that is written later, and keeps nobody else from their mail.
        """
        own = set(map(get_owner, filings))
        locked = {schema for schema in map(get_owner, notes) if schema not in own and self._store.is_locked(schema)}
        # Notes come first: the message replaces what they say of it.
        first = await self._store.keep(*(note for note in notes if get_owner(note) not in locked), *filings)
        if waiting := [note for note in notes if get_owner(note) in locked]:
            self._store.note(*waiting)
        return first

    async def _house(self, verdicts: list[tuple[Recipient, Verdict]]) -> list[tuple[Recipient, Verdict]]:
        """The same, where everybody whose first mail this is has a mailbox by now. Raises DirectoryUnavailable."""
        new = await self._directory.ensure_mailboxes(recipient.addressee for recipient, _ in verdicts)
        return [(recipient.move_into(new.get(recipient.addressee.address)), verdict) for recipient, verdict in verdicts]

    async def _judge(
        self,
        message: InboundMessage,
        evidence: Mapping[str, Evidence],
        release: ReleasePolicy,
        recipients: list[Recipient],
    ) -> list[tuple[Recipient, Verdict]]:
        """Verdicts for all; in a thread where there are many recipients, each with rules of their own to go through."""
        if len(recipients) < MANY_RECIPIENTS:
            return judge_for_all(message, evidence, release, recipients)
        client = message.peer.ip
        return await self._examiners.run(client, judge_for_all, message, evidence, release, recipients)

    async def _examine(self, client: str, raw: bytes, providers: set[str]) -> Examined:
        what = (raw, sorted(providers), self._classifier, self._hostname)
        try:
            async with asyncio.timeout(EVIDENCE_SECONDS):
                return await self._examiners.run(client, examine, *what)
        except TimeoutError as error:
            log.error("examination_too_slow octets=%d", len(raw))
            raise IntakeUnavailableError from error


async def await_ptr(ptr: asyncio.Future[PtrEvidence]) -> PtrEvidence:
    """The answer of a look-up that is running, which never raises; unknown when it takes too long."""
    if ptr.done():
        return ptr.result()
    try:
        return await asyncio.wait_for(asyncio.shield(ptr), EVIDENCE_SECONDS)
    except TimeoutError:
        return PtrEvidence(PtrStatus.UNKNOWN, milliseconds=round(EVIDENCE_SECONDS * 1000), detail="timeout")


def examine(raw: bytes, providers: list[str], classifier: Classifier, hostname: str) -> Examined:
    """Everything that takes time over the octets: reading, classifying, hashing, compressing. For a thread."""
    header = get_header(raw)
    return Examined(
        content=read_content(raw),
        classifier={provider: classifier.classify(raw, provider) for provider in providers},
        sha256=hashlib.sha256(raw).digest(),
        stored=compress(raw),
        hops=count_hops(header),
        own_traces=count_own_traces(header, hostname),
    )


def get_header(raw: bytes) -> bytes:
    """The header in lower case, with a line end before it and LF for each, as all of them are line ends on the way out;
    of an endless one the beginning.
    """
    usual = raw.find(b"\r\n\r\n", 0, MAX_HEADER_OCTETS)
    head = b"\n" + raw[: usual + 4 if usual >= 0 else MAX_HEADER_OCTETS]
    ends = [end for empty in EMPTY_LINES if (end := head.find(empty)) >= 0]
    return head[: min(ends, default=None)].replace(b"\r", b"\n").lower()


def count_hops(header: bytes) -> int:
    """How many Received fields there are."""
    return header.count(b"\nreceived:")


def count_own_traces(header: bytes, hostname: str) -> int:
    """How often a gateway of this name has passed the message on: its own trace ids."""
    if OWN_TRACE not in header:
        return 0
    lines = [line for line in header.split(b"\n") if line.startswith(OWN_TRACE[1:])]
    return sum(line.rstrip().endswith(b" by " + hostname.lower().encode()) for line in lines)


def make_message(transaction: Transaction, raw: bytes) -> InboundMessage:
    peer = Peer(transaction.client_ip, transaction.helo, transaction.tls)
    return InboundMessage(transaction.trace_id, raw, transaction.sender, peer, transaction.received_at)


def make_policy(release: ReleasePolicy, addressee: Addressee, *, with_rules: bool = True) -> Policy:
    """The release, and what the people of this recipient chose. Reverse DNS never shuts anyone off the postmaster.

    There may be thousands of rules about senders, and clients are judged without them.
    """
    domain = addressee.domain
    ptr_action = domain.ptr_action
    if addressee.is_postmaster and (ptr_action or release.ptr.action) == "refuse":
        ptr_action = "score"
    return Policy(
        release=release,
        rules=tuple(Rule(*rule) for rule in addressee.rules) if with_rules else (),
        spam_action=Action(domain.spam_action),
        sure_spam_action=Action(domain.sure_spam_action),
        ptr_action=ptr_action,
        ptr_exceptions=tuple(PtrException(*exception) for exception in addressee.ptr_exceptions),
        portal_url=make_portal_url(domain.hostname) if domain.hostname else "",
    )


def judge_for_all(
    message: InboundMessage, evidence: Mapping[str, Evidence], release: ReleasePolicy, recipients: list[Recipient]
) -> list[tuple[Recipient, Verdict]]:
    """The verdict for each recipient; people who chose alike are judged for once."""
    verdicts: dict[PolicyKey, Verdict] = {}
    found = []
    for recipient in recipients:
        addressee, domain = recipient.addressee, recipient.addressee.domain
        choices = (domain.spam_action, domain.sure_spam_action, domain.ptr_action)
        key = (domain.provider, addressee.is_postmaster, *choices, addressee.rules, addressee.ptr_exceptions)
        if key not in verdicts:
            verdicts[key] = judge(message, evidence[domain.provider], make_policy(release, addressee))
        found.append((recipient, verdicts[key]))
    return found


def decide(verdicts: Iterable[Verdict], examined: Examined) -> Result:
    """One reply answers all recipients: it is a refusal only when every verdict is one."""
    if examined.own_traces > MAX_OWN_TRACES:
        return Result.RETURNED
    if examined.hops > MAX_RECEIVED_HEADERS:
        return Result.LOOPING
    return Result.REFUSED if all(verdict.action is Action.REFUSE for verdict in verdicts) else Result.KEPT


def make_fingerprint(schema: str, transaction: Transaction, recipients: Iterable[str], sha256: bytes) -> bytes:
    """By which a message that is sent again is known: client, sender, recipients and octets, in one schema."""
    addresses = sorted(address.lower() for address in recipients)
    envelope = "\0".join([schema, transaction.client_ip, transaction.sender, *addresses])
    return hashlib.sha256(sha256 + envelope.encode("utf-8", "surrogatepass")).digest()


def _make_filings(
    transaction: Transaction,
    verdicts: list[tuple[Recipient, Verdict]],
    result: Result,
    reply: str,
    evidence: Mapping[str, Evidence],
    examined: Examined,
    *,
    size: int,
) -> list[Filing]:
    """The records of a message, one a provider."""
    by_domain: dict[tuple[str, str], list[Outcome]] = {}
    for recipient, verdict in verdicts:
        domain = recipient.addressee.domain
        outcome = _make_outcome(recipient, verdict, result, reply)
        by_domain.setdefault((domain.schema, domain.provider), []).append(outcome)
    addresses = [recipient.given for recipient, _ in verdicts]
    kept = result is Result.KEPT
    return [
        Filing(
            schema=schema,
            transaction=transaction,
            outcomes=tuple(outcomes),
            evidence=evidence[provider],
            size=size,
            sha256=examined.sha256,
            stored=examined.stored if kept else None,
            receipt=make_fingerprint(schema, transaction, addresses, examined.sha256) if kept else None,
        )
        for (schema, provider), outcomes in by_domain.items()
    ]


def _make_outcome(recipient: Recipient, verdict: Verdict, result: Result, reply: str) -> Outcome:
    if result in {Result.LOOPING, Result.RETURNED}:
        return make_refusal(recipient, verdict, Cause.LOOP, reply, Cause.LOOP.label)
    if result is Result.REFUSED:
        return make_refusal(recipient, verdict, Cause.POLICY, reply, explain(verdict))
    addressee = recipient.addressee
    is_clean = verdict.action in {Action.DELIVER, Action.TAG}
    state, event = (State.DELIVERING, "accepted") if is_clean else (State.QUARANTINED, "held")
    place = recipient.given, addressee.domain.id, addressee.mailbox_id
    return Outcome(*place, state, verdict, reply, event, explain(verdict))


def make_refusal(recipient: Recipient, verdict: Verdict, cause: Cause, reply: str, reason: str) -> Outcome:
    addressee = recipient.addressee
    place = recipient.given, addressee.domain.id, addressee.mailbox_id
    return Outcome(*place, State.REFUSED, verdict, reply, "refused", tell(reply, reason), cause)


def tell(reply: str, reason: str) -> str:
    """What was answered, and why, once."""
    return reply if reason in reply else f"{reply} [{reason}]"


def make_left(left: Left, domain: ServedDomain) -> Outcome:
    text = tell(left.reply, left.reason or left.cause.label)
    place = left.given, domain.id, left.mailbox_id
    state = State.REFUSED if left.event == "refused" else State.UNFINISHED
    return Outcome(*place, state, UNJUDGED, left.reply, left.event, text, left.cause)


def _with_answer(transaction: Transaction, reply: str) -> Transaction:
    said = Said(EVERYBODY, END_OF_DATA, reply, transaction.seconds)
    return replace(transaction, said=(*transaction.said, said))


def _make_note(transaction: Transaction, schema: str, outcomes: Iterable[Outcome]) -> Filing:
    """A record without a message."""
    return Filing(schema, transaction, tuple(outcomes), Evidence(ptr=transaction.ptr))


def _make_notes(
    transaction: Transaction, outcomes: Iterable[tuple[str, Outcome]], left: Iterable[Left]
) -> list[Filing | Unrouted]:
    """Records without a message: one a provider, and one for each recipient that is none's. Of many such the others
    share one, for each has the whole conversation.
    """
    by_schema: dict[str, list[Outcome]] = {}
    for schema, outcome in outcomes:
        by_schema.setdefault(schema, []).append(outcome)
    unrouted: list[Unrouted] = []
    for one in left:
        if one.domain:
            by_schema.setdefault(one.domain.schema, []).append(make_left(one, one.domain))
        elif len(unrouted) < MAX_UNROUTED:
            unrouted.append(Unrouted(transaction, one.given, one.reply, one.cause, one.event))
        else:
            unrouted[-1] = replace(unrouted[-1], times=unrouted[-1].times + 1)
    return [*unrouted, *(_make_note(transaction, schema, found) for schema, found in by_schema.items())]


def explain(verdict: Verdict) -> str:
    """Why it was judged so, in one line for people: the weightiest first."""
    findings = sorted(verdict.findings, key=lambda finding: -abs(finding.points))
    told = "; ".join(f"{finding.text} ({finding.points:+.1f})" for finding in findings)
    category = verdict.category.value.replace("_", " ")
    return f"{category}, score {verdict.score:.1f}" + (f": {told}" if told else "")
