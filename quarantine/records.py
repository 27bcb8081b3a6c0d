"""What is written of mail: values, and the statement for each. Nothing here talks to the database."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from psycopg import sql

from filtering.evidence import NOT_KNOWN_YET, Evidence, PtrEvidence
from filtering.verdict import Finding, Verdict
from portal.tenants.database import Query
from quarantine.causes import Cause
from quarantine.models import State

SURROGATE = re.compile("[\ud800-\udfff]")
MAX_REPLIES = 1200  # of a transaction that are kept, and always the last
RECEIPT_SECONDS = 600  # RFC 5321 4.5.3.2.6: so long a client may wait for the reply to its final dot
UNHEARD_SECONDS = 86_400  # where we told it to come again: it does so when it likes

EVERYBODY, NOBODY = "", "public"
PAUSE_SECONDS = 1.0  # a reply that came later than that tells when


class Said(NamedTuple):
    """A command and its reply, and whom it concerns: a provider's schema, NOBODY of ours, or EVERYBODY."""

    whose: str
    command: str
    reply: str
    seconds: float = 0.0  # since the transaction began


@dataclass(frozen=True, slots=True)
class Transaction:
    """Who sent, from where. `client_ip` is the address of the connection; `sender` is empty for the null path."""

    trace_id: str
    received_at: datetime
    client_ip: str
    sender: str
    helo: str = ""
    tls: str = ""
    ptr: PtrEvidence = field(default_factory=PtrEvidence)
    said: tuple[Said, ...] = ()
    seconds: float = 0.0  # since it began

    def tell(self, whose: str) -> list[tuple[str | float, ...]]:
        """The commands and replies that concern one provider, late ones with the seconds since the transaction began:
        nobody learns of another's recipients.
        """
        said = self.said if len(self.said) <= MAX_REPLIES else (*self.said[: MAX_REPLIES - 1], self.said[-1])
        return [
            (one.command, one.reply, round(one.seconds, 1))
            if one.seconds >= PAUSE_SECONDS
            else (one.command, one.reply)
            for one in said
            if one.whose in {EVERYBODY, whose}
        ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of the message for one recipient, and the line of the trace that says so."""

    address: str  # as given at RCPT
    domain_id: int
    mailbox_id: int | None
    state: State
    verdict: Verdict
    reply: str
    event: str  # accepted, held, refused, deferred, unfinished; counted under this name
    text: str = ""
    cause: str = ""  # a Cause, where it was not taken


@dataclass(frozen=True, slots=True)
class Filing:
    """One message in one provider's schema. Without `stored` (codec, octets) no content is kept: it was refused.

    With a `receipt` it is stored only if no message of that fingerprint was within the last ten minutes (within a day,
    where it was stored without our knowing).
    """

    schema: str
    transaction: Transaction
    outcomes: tuple[Outcome, ...]
    evidence: Evidence = field(default_factory=Evidence)
    size: int = 0
    sha256: bytes | None = None
    stored: tuple[int, bytes] | None = None
    receipt: bytes | None = None


@dataclass(frozen=True, slots=True)
class Unrouted:
    """What reached no provider: a recipient that is nobody's, or a connection that named none of ours."""

    transaction: Transaction
    recipient: str
    reply: str
    cause: Cause
    outcome: str = "refused"  # refused, deferred, unfinished
    times: int = 1


@dataclass(frozen=True, slots=True)
class Count:
    """Something that is only counted; a number below zero takes back."""

    at: datetime
    kind: str
    cause: str
    number: int
    schema: str = ""
    domain_id: int = 0


def get_owner(row: Filing | Unrouted) -> str:
    """Whose tables it is written to: a provider's schema, or NOBODY."""
    return row.schema if isinstance(row, Filing) else NOBODY


Record = Filing | Unrouted | Count
Statement = tuple[Query, dict[str, Any]]
Hour = tuple[datetime, str, int, str, str]  # hour, schema, domain, kind, cause

# `first` has a row where the same message is on record: then nothing is stored but an event that says so. Tables of all
# providers are written by functions: a plan that names one is made anew after each vacuum of it, for each provider.
# What `traced` reads of `queued` gets a job: all of it, since an INSERT reads its source to the end.
FILE = """
WITH {first}, message AS (
    INSERT INTO {schema}.quarantine_message AS m
        (trace_id, received_at, client_ip, ptr_status, ptr_name, ptr_milliseconds, helo, tls, sender, size, sha256,
         header_from, subject, message_id, evidence, policy_release, replies)
    SELECT %(trace_id)s, %(received_at)s, %(client_ip)s::inet, %(ptr_status)s, %(ptr_name)s, %(ptr_milliseconds)s,
           %(helo)s, %(tls)s, %(sender)s, %(size)s, %(sha256)b, %(header_from)s, %(subject)s, %(message_id)s,
           %(evidence)s::jsonb, %(policy_release)s, %(replies)s::jsonb
    {unless_known}
    RETURNING id
), content AS (
    INSERT INTO {schema}.quarantine_content (message_id, codec, data)
    SELECT id, %(codec)s::smallint, %(data)b FROM message WHERE %(codec)s::smallint IS NOT NULL
), {with_outcomes}recipient AS (
    INSERT INTO {schema}.quarantine_recipient
        (message_id, address, mailbox_id, domain_id, received_at, state, action, category, score, findings,
         policy_release, reply, cause)
    SELECT message.id, o.address, {mailbox}, o.domain_id, %(received_at)s, o.state, o.action, o.category, o.score,
           o.findings, %(policy_release)s, o.reply, o.cause
    FROM message, {outcome} o
    RETURNING id, message_id, address, domain_id, state
), queued AS MATERIALIZED (
    SELECT *, CASE WHEN state = 'delivering' THEN public.lazaret_queue_mail({name}, id, domain_id) END FROM recipient
), traced AS (
    INSERT INTO {schema}.quarantine_event (message_id, recipient_id, kind, text)
    SELECT r.message_id, r.id, o.event, o.text FROM queued r JOIN {outcome} o USING (address)
    UNION ALL
    SELECT m.id, NULL, %(known)s, %(known_text)s FROM {schema}.quarantine_message m JOIN first USING (trace_id)
    WHERE m.sha256 IS NOT NULL
)
SELECT trace_id FROM first
"""
# A transaction whose recipients were refused one by one before has its row already: later news replaces the older, but
# never a message, nor what was said at the end of one.
NEWS = """WHERE NOT EXISTS (SELECT FROM first)
    ON CONFLICT (trace_id) DO UPDATE SET
        received_at = excluded.received_at, size = excluded.size, sha256 = excluded.sha256,
        ptr_status = excluded.ptr_status, ptr_name = excluded.ptr_name, ptr_milliseconds = excluded.ptr_milliseconds,
        header_from = excluded.header_from, subject = excluded.subject, message_id = excluded.message_id,
        evidence = excluded.evidence, policy_release = greatest(m.policy_release, excluded.policy_release),
        replies = CASE WHEN m.replies->-1->>0 = %(end)s THEN m.replies ELSE excluded.replies END
    WHERE m.sha256 IS NULL"""
WITH_OUTCOMES = """outcome AS (
    SELECT * FROM jsonb_to_recordset(%(outcomes)s::jsonb) AS o (
        address text, mailbox_id bigint, domain_id bigint, state text, action text, category text, score float8,
        findings jsonb, reply text, cause text, event text, text text)
), """
MAILBOX = "coalesce(o.mailbox_id, (SELECT id FROM {schema}.people_mailbox WHERE address = lower(o.address)))"
# Nearly all mail is for one known mailbox, and of a transaction that has no row yet. With a thousand providers, each
# with a plan of its own, what a plan contains is what a message costs.
OUTCOME = """(
    SELECT %(address)s::text AS address, %(mailbox_id)s::bigint AS mailbox_id, %(domain_id)s::bigint AS domain_id,
           %(state)s::text AS state, %(action)s::text AS action, %(category)s::text AS category,
           %(score)s::float8 AS score, %(findings)s::jsonb AS findings, %(reply)s::text AS reply,
           %(cause)s::text AS cause, %(event)s::text AS event, %(text)s::text AS text
)"""
FILE_MANY = (
    FILE.replace("{unless_known}", NEWS)
    .replace("{with_outcomes}", WITH_OUTCOMES)
    .replace("{outcome}", "outcome")
    .replace("{mailbox}", MAILBOX)
)
FILE_ONE = (
    FILE.replace("{unless_known}", "FROM receipt WHERE receipt.trace_id = %(trace_id)s")
    .replace("{with_outcomes}", "")
    .replace("{outcome}", OUTCOME)
    .replace("{mailbox}", "o.mailbox_id")
)
FIRST = """
receipt AS MATERIALIZED (
    SELECT public.lazaret_take_receipt(%(receipt)b, %(trace_id)s, %(receipt_seconds)s::float8) AS trace_id
), first AS (SELECT trace_id FROM receipt WHERE trace_id <> %(trace_id)s)
"""
NO_FIRST = "first AS (SELECT NULL::text AS trace_id WHERE false)"
# That a message was put off, when a commit of which we did not hear had succeeded: the client heard this instead.
FIRST_OF_NOTE = """
first AS (
    UPDATE {schema}.quarantine_message SET replies = %(replies)s::jsonb
    WHERE trace_id = %(trace_id)s AND replies->-1->>0 = %(end)s
    RETURNING trace_id
)
"""
# Of what was stored, if it was: nothing else is ever known by a receipt.
REMEMBER = """
UPDATE public.platform_receipt SET at = now() + make_interval(secs => %(seconds)s)
WHERE fingerprint IN (
    SELECT r.fingerprint FROM public.platform_receipt r
    JOIN unnest(%(fingerprints)s::bytea[], %(trace_ids)s::text[]) AS d (fingerprint, trace_id)
    USING (fingerprint, trace_id)
    FOR UPDATE OF r SKIP LOCKED
)
RETURNING fingerprint
"""

UNROUTED = Query.from_text(b"""
INSERT INTO public.platform_unrouted
    (trace_id, at, client_ip, ptr_status, ptr_name, ptr_detail, ptr_milliseconds, helo, tls, sender, recipient, outcome,
     cause, reply, replies, times)
VALUES (%(trace_id)s, %(received_at)s, %(client_ip)s, %(ptr_status)s, %(ptr_name)s, %(ptr_detail)s,
        %(ptr_milliseconds)s, %(helo)s, %(tls)s, %(sender)s, %(recipient)s, %(outcome)s, %(cause)s,
        %(reply)s, %(replies)s, %(times)s)
""")
COUNT = Query.from_text(b"""
INSERT INTO public.platform_hourlycount AS h (hour, schema, domain_id, kind, cause, instance, count)
SELECT hour, schema, domain_id, kind, cause, %(instance)s, number
FROM unnest(%(hours)s::timestamptz[], %(schemas)s::text[], %(domains)s::bigint[], %(kinds)s::text[],
            %(causes)s::text[], %(numbers)s::bigint[]) AS c (hour, schema, domain_id, kind, cause, number)
ON CONFLICT (hour, schema, domain_id, kind, cause, instance) DO UPDATE SET count = h.count + excluded.count
""")
TAKE_BACK = Query.from_text(b"""
UPDATE public.platform_hourlycount h SET count = h.count - c.number
FROM unnest(%(hours)s::timestamptz[], %(schemas)s::text[], %(domains)s::bigint[], %(kinds)s::text[],
            %(causes)s::text[], %(numbers)s::bigint[]) AS c (hour, schema, domain_id, kind, cause, number)
WHERE (h.hour, h.schema, h.domain_id, h.kind, h.cause, h.instance)
    = (c.hour, c.schema, c.domain_id, c.kind, c.cause, %(instance)s)
""")
REPEATED = "repeated"  # taken before: the sender had not heard so. No mail has this for its outcome
LOOK_UP, LOOK_UP_FAILED = "dns", "dns_failed"  # of the whole platform; of a provider's mail, by recipients
MAX_CAUSE = 24  # letters
AGAIN = "The client sent it again, as if it had not heard that it was taken: answered 250, not stored twice."
UNHEARD = "what is told here was on record already, but the database had not said so in time"
END_OF_DATA = "end of data"  # what is answered then is called so among the replies


@cache
def get_file_statement(schema: str, file: str, first: str) -> Query:
    names = {"schema": sql.Identifier(schema), "name": sql.Literal(schema)}
    composed = sql.SQL(file).format(**names, first=sql.SQL(first).format(**names))
    return Query.from_text(composed.as_bytes(None))  # once, and not for each message


def make_statement(record: Filing | Unrouted) -> Statement:
    """The statement for a record, its strings made fit for PostgreSQL and for their columns."""
    values = _describe(record.transaction)
    if isinstance(record, Unrouted):
        return UNROUTED, values | {
            "replies": dump_json(record.transaction.tell(NOBODY)),
            "ptr_detail": clean(record.transaction.ptr.detail, 120),
            "recipient": clean(record.recipient, 320),
            "outcome": record.outcome,
            "cause": record.cause.value,
            "reply": clean(record.reply, 600),
            "times": record.times,
        }
    codec, data = record.stored or (None, None)
    content, outcomes = record.evidence.content, record.outcomes
    told = record.transaction.tell(record.schema)
    values |= {
        "size": record.size,
        "sha256": record.sha256,
        "codec": codec,
        "data": data,
        "header_from": clean(content.header_from, 500),
        "subject": clean(content.subject, 500),
        "message_id": clean(content.message_id, 998),
        "evidence": dump_json(record.evidence.to_json()),
        "policy_release": max((outcome.verdict.policy_release for outcome in outcomes), default=0),
        "replies": dump_json(told),
        "end": END_OF_DATA,
        "known": "sent_again",
        "known_text": AGAIN,
    }
    if record.receipt and _is_plain(record):
        values |= describe_outcome(outcomes[0])
        values |= {"findings": dump_json(values["findings"]), "receipt": record.receipt}
        return get_file_statement(record.schema, FILE_ONE, FIRST), values | {"receipt_seconds": RECEIPT_SECONDS}
    values["outcomes"] = dump_json(list(map(describe_outcome, outcomes)))
    if record.sha256 is None:
        reply = str(told[-1][1]) if told else ""
        values |= {"known": "deferred", "known_text": clean(f"{reply} [{UNHEARD}]", 1000)}
        return get_file_statement(record.schema, FILE_MANY, FIRST_OF_NOTE), values
    if record.receipt is None:
        return get_file_statement(record.schema, FILE_MANY, NO_FIRST), values
    values |= {"receipt": record.receipt, "receipt_seconds": RECEIPT_SECONDS}
    return get_file_statement(record.schema, FILE_MANY, FIRST), values


def _is_plain(record: Filing) -> bool:
    """Whether it is for one known mailbox, and no recipient of the provider was refused or put off before: else the
    transaction has a row already.

    It also has one where this comes so late that it was noted as put off. Then the unique index refuses it, as it
    should: its sender was told to come again, under another trace id.
    """
    said = record.transaction.said
    is_first = len(said) < MAX_REPLIES and all(one.reply.startswith("2") for one in said if one.whose == record.schema)
    return is_first and len(record.outcomes) == 1 and record.outcomes[0].mailbox_id is not None


def list_hours(record: Record, *, again: bool = False) -> Iterator[tuple[Hour, int]]:
    """What a record adds to the counts; `again`: it was known already."""
    if isinstance(record, Count):
        yield (_get_hour(record.at), record.schema, record.domain_id, record.kind, record.cause), record.number
        return
    hour = _get_hour(record.transaction.received_at)
    if isinstance(record, Unrouted):
        yield (hour, "", 0, record.outcome, record.cause.value), record.times
        return
    failure = "" if again else get_failure(record.transaction.ptr)
    for outcome in record.outcomes:
        kind, cause = (REPEATED, Cause.SENT_AGAIN.value) if again else (outcome.event, outcome.cause)
        yield (hour, record.schema, outcome.domain_id, kind, cause), 1
        if failure:
            yield (hour, record.schema, outcome.domain_id, LOOK_UP_FAILED, failure), 1


def get_failure(ptr: PtrEvidence) -> str:
    """Why the client's name could not be looked up; empty where it could, or where nobody waited for the answer."""
    return "" if ptr == NOT_KNOWN_YET else ptr.failure[:MAX_CAUSE]


def list_corrections(record: Filing | Unrouted) -> Iterator[Count]:
    """What puts the counts right where a record was counted as new and had been known."""
    is_message = isinstance(record, Filing) and record.receipt is not None
    for again, sign in ((False, -1), (True, 1)) if is_message else ((False, -1),):
        for (hour, schema, domain, kind, cause), number in list_hours(record, again=again):
            yield Count(hour, kind, cause, sign * number, schema, domain)


def _get_hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def make_count_statements(counts: Counter[Hour], instance: str) -> Iterator[Statement]:
    for statement, chosen in ((COUNT, +counts), (TAKE_BACK, -counts)):
        if chosen:
            rows = sorted(chosen.items())  # so that no two who share rows wait for each other
            hours, schemas, domains, kinds, causes = map(list, zip(*(row for row, _ in rows), strict=True))
            yield (
                statement,
                {
                    "hours": hours,
                    "schemas": schemas,
                    "domains": domains,
                    "kinds": kinds,
                    "causes": causes,
                    "numbers": [number for _, number in rows],
                    "instance": instance,
                },
            )


def _describe(transaction: Transaction) -> dict[str, Any]:
    return {
        "trace_id": transaction.trace_id,
        "received_at": transaction.received_at,
        "client_ip": transaction.client_ip or None,
        "ptr_status": transaction.ptr.status.value,
        "ptr_name": clean(transaction.ptr.name, 255),
        "ptr_milliseconds": transaction.ptr.milliseconds,
        "helo": clean(transaction.helo, 255),
        "tls": clean(transaction.tls, 60),
        "sender": clean(transaction.sender, 320),
    }


def describe_outcome(outcome: Outcome) -> dict[str, Any]:
    """An outcome by the names of the statement's columns."""
    return {
        "address": clean(outcome.address, 320),
        "mailbox_id": outcome.mailbox_id,
        "domain_id": outcome.domain_id,
        "state": outcome.state.value,
        "action": outcome.verdict.action.value,
        "category": outcome.verdict.category.value,
        "score": outcome.verdict.score,
        "findings": list(map(describe_finding, outcome.verdict.findings)),
        "reply": clean(outcome.reply, 600),
        "cause": outcome.cause,
        "event": outcome.event,
        "text": clean(outcome.text, 1000),
    }


def describe_finding(finding: Finding) -> dict[str, Any]:
    """A finding as it is stored: what is not said is the default."""
    stored: dict[str, Any] = {"check": finding.check, "points": finding.points, "text": finding.text}
    if not finding.learn:
        stored["learn"] = False
    if finding.category:
        stored["category"] = finding.category.value
    if finding.action:
        stored["action"] = finding.action.value
    return stored


def clean(text: str, limit: int) -> str:
    """The text as PostgreSQL takes it (no NUL, no lone surrogate), cut to `limit` characters."""
    text = text[:limit]
    if text.isascii() and "\0" not in text:
        return text
    return SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def dump_json(value: Any) -> str:
    """JSON as PostgreSQL's jsonb takes it: without NUL and lone surrogates."""
    text = _dump(value)
    if "\\u0000" in text or SURROGATE.search(text):
        text = _dump(_clean_deeply(value))
    return text


_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _clean_deeply(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, len(value))
    if isinstance(value, Mapping):
        return {key: _clean_deeply(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_deeply(item) for item in value]
    return value
