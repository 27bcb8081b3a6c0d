"""The courier's SQL: schema-qualified, through psycopg's async pool."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from portal.tenants.database import Pool, Query, make_pool
from quarantine.content import DROP_CONTENT, LOCK_CONTENT, NEEDING
from quarantine.delivery.outcome import Job, Outcome, Result
from quarantine.platform.models import Lane

TABLES = ("message", "recipient", "content", "event")
APART, RECORDERS = 2, 2  # connections
LEASE_SECONDS = 60  # renewed while a job is in hand: a delivery may last as long as it likes

# One step a (lane, domain) with jobs, however long its backlog: index delivery_job_due.
PLACES = """
WITH RECURSIVE place AS (
    (SELECT lane, domain_id FROM public.platform_deliveryjob ORDER BY lane, domain_id LIMIT 1)
    UNION ALL
    SELECT further.lane, further.domain_id FROM place CROSS JOIN LATERAL (
        SELECT j.lane, j.domain_id FROM public.platform_deliveryjob j
        WHERE (j.lane, j.domain_id) > (place.lane, place.domain_id) ORDER BY j.lane, j.domain_id LIMIT 1
    ) further
)"""
LIST_BACKLOG = """
{places}
SELECT place.lane, place.domain_id, coalesce(d.server_host, ''), coalesce(d.server_port, 0),
    extract(epoch FROM first.due_at - now())::float8
FROM place CROSS JOIN LATERAL (
    SELECT j.due_at FROM public.platform_deliveryjob j
    WHERE j.lane = place.lane AND j.domain_id = place.domain_id
    AND (j.claimed_until IS NULL OR j.claimed_until < now()) ORDER BY j.due_at LIMIT 1
) first LEFT JOIN public.tenants_maildomain d ON d.id = place.domain_id
""".replace("{places}", PLACES)
MOST_COUNTED = 100_000  # jobs of a lane
# Index delivery_job_due; the oldest by primary key.
MEASURE_QUEUES = """
SELECT lane.name,
    (SELECT count(*) FROM (SELECT FROM public.platform_deliveryjob j WHERE j.lane = lane.name LIMIT %s) counted),
    coalesce((SELECT extract(epoch FROM now() - j.created_at)::float8 FROM public.platform_deliveryjob j
        WHERE j.lane = lane.name ORDER BY j.id LIMIT 1), 0)
FROM unnest(%s::text[]) AS lane(name)
"""
# Index delivery_job_due; MATERIALIZED, so that the locking part runs once.
CLAIM = """
WITH found AS MATERIALIZED (
    SELECT due.id FROM unnest(%s::text[], %s::bigint[], %s::int[]) AS wanted(lane, domain_id, jobs)
    CROSS JOIN LATERAL (
        SELECT j.id FROM public.platform_deliveryjob j
        WHERE j.lane = wanted.lane AND j.domain_id = wanted.domain_id AND j.due_at <= now()
        AND (j.claimed_until IS NULL OR j.claimed_until < now())
        ORDER BY j.due_at, j.id LIMIT wanted.jobs FOR UPDATE SKIP LOCKED
    ) due
)
UPDATE public.platform_deliveryjob j SET claimed_by = %s, claimed_until = now() + make_interval(secs => %s)
FROM found WHERE j.id = found.id
RETURNING j.id, j.schema, j.recipient_id, j.domain_id, j.lane, j.attempts, j.created_at
"""
# Ours and in hand: for another while. Ours and in nobody's hand: free. Index delivery_job_claimed.
RENEW = """
UPDATE public.platform_deliveryjob SET
    claimed_until = CASE WHEN id = ANY(%(held)s) THEN now() + make_interval(secs => %(lease)s) END,
    claimed_by = CASE WHEN id = ANY(%(held)s) THEN claimed_by ELSE '' END
WHERE claimed_by = %(me)s
"""
# What a courier that is no more had in hand, unless somebody else has it by now.
ADOPT = """
UPDATE public.platform_deliveryjob SET claimed_by = %(me)s, claimed_until = now() + make_interval(secs => %(lease)s)
WHERE id = ANY(%(jobs)s) AND (claimed_by = %(former)s OR claimed_until IS NULL OR claimed_until < now())
"""
# What waits because its server was away is due when the server is back.
HASTEN = """
UPDATE public.platform_deliveryjob SET due_at = now()
WHERE domain_id = ANY(%s) AND attempts > 0 AND due_at > now() AND claimed_by = ''
"""
# Only where the job is the recipient's: after a restore of the database its id may be another's. The ids are named
# twice so that the primary key finds the jobs; a join by three columns alone reads the whole queue.
END_JOBS = """
DELETE FROM public.platform_deliveryjob j
USING unnest(%(jobs)s::bigint[], %(schemas)s::text[], %(recipients)s::bigint[]) AS o(id, schema, recipient)
WHERE j.id = ANY(%(jobs)s) AND j.id = o.id AND j.schema = o.schema AND j.recipient_id = o.recipient RETURNING j.id
"""
POSTPONE = """
UPDATE public.platform_deliveryjob j SET due_at = now() + make_interval(secs => o.pause), attempts = j.attempts + 1,
    claimed_until = NULL, claimed_by = ''
FROM unnest(%(jobs)s::bigint[], %(schemas)s::text[], %(recipients)s::bigint[], %(pauses)s::float8[])
    AS o(id, schema, recipient, pause)
WHERE j.id = ANY(%(jobs)s) AND j.id = o.id AND j.schema = o.schema AND j.recipient_id = o.recipient
    AND j.claimed_by = %(me)s RETURNING j.id
"""
FIND_JOBS = "SELECT id, schema, recipient_id, created_at FROM public.platform_deliveryjob WHERE id = ANY(%s)"
SMALL = 65_536  # octets of a message that is loaded with others
FEW = 4  # rows of a provider that come with their content; more could bring the same one many times
LOAD = """
SELECT r.id, r.message_id, r.address, r.action, r.category, r.score, m.trace_id, m.kind, m.received_at,
    coalesce(host(m.client_ip), ''), m.ptr_name, m.helo, m.tls, m.sender, m.size, m.sha256, c.codec, c.data
FROM {recipient} r JOIN {message} m ON m.id = r.message_id
LEFT JOIN {content} c ON c.message_id = m.id AND m.size <= %(small)s AND cardinality(%(ids)s) <= %(few)s
WHERE r.id = ANY(%(ids)s) AND r.state IN ('delivering', 'deferred', 'releasing')
"""
LOAD_CONTENT = "SELECT message_id, codec, data FROM {content} WHERE message_id = ANY(%(ids)s)"
# States change here only, guarded by the old ones; what was being released stays so until it is. Content that only this
# recipient ever needed goes with it; of other messages, whether it is needed is seen under its lock (DROP_CONTENT).
RECORD = """
WITH {locked}changed AS (
    UPDATE {recipient} r SET
        state = CASE
            WHEN o.result = 'refused' THEN 'held'
            WHEN o.result = 'taken' THEN CASE r.state WHEN 'releasing' THEN 'released' ELSE 'delivered' END
            ELSE CASE r.state WHEN 'releasing' THEN 'releasing' ELSE 'deferred' END
        END,
        reply = o.reply, attempts = r.attempts + 1, changed_at = o.at
    FROM {outcome} o
    WHERE r.id = o.id{in_order} AND r.state IN ('delivering', 'deferred', 'releasing')
    RETURNING r.id, r.message_id, r.state
),
traced AS (
    INSERT INTO {event} (message_id, recipient_id, at, kind, text, actor)
    SELECT c.message_id, c.id, o.at,
        CASE o.result WHEN 'later' THEN 'deferred' WHEN 'refused' THEN 'server_refused' ELSE c.state END, o.text, ''
    FROM changed c JOIN {outcome} o ON o.id = c.id
),
dropped AS (
    DELETE FROM {content} d
    USING changed c LEFT JOIN {recipient} other ON other.message_id = c.message_id AND other.id <> c.id
    WHERE d.message_id = c.message_id AND c.state = 'delivered' AND other.id IS NULL
    RETURNING d.message_id
)
SELECT c.id, c.message_id, c.state, d.message_id IS NULL FROM changed c LEFT JOIN dropped d USING (message_id)
"""
OUTCOMES = """(
    SELECT * FROM unnest(%(id)s::bigint[], %(result)s::text[], %(reply)s::text[], %(text)s::text[],
        %(at)s::timestamptz[]) AS o(id, result, reply, text, at)
)"""
LOCKED = """locked AS (SELECT r.id FROM {recipient} r WHERE r.id = ANY(%(id)s) ORDER BY r.id FOR UPDATE),
"""
OUTCOME = """(
    SELECT %(id)s::bigint AS id, %(result)s::text AS result, %(reply)s::text AS reply, %(text)s::text AS text,
        %(at)s::timestamptz AS at
)"""
RECORD_MANY = (
    RECORD.replace("{outcome}", OUTCOMES)
    .replace("{locked}", LOCKED)
    .replace("{in_order}", " AND r.id IN (SELECT id FROM locked)")
)
# Where a thousand providers have one each, what is walked through for a row is what counts.
RECORD_ONE = RECORD.replace("{outcome}", OUTCOME).replace("{locked}", "").replace("{in_order}", "")


@dataclass(frozen=True, slots=True)
class Pools:
    """A courier's connections. One that reads or records for all providers comes to know the tables and plans of each:
    with a thousand, half a gigabyte, and a millisecond for each that it learns. So what a round reads for all has one
    that stays; what is read of one provider (large content, what was locked) has others, since a pool hands out its
    connections in turn, and closes those that it needed for a moment.

    Whoever reads apart enters `turns`, and waits there for those before it, however long.
    """

    queue: Pool
    reading: Pool
    apart: Pool
    recording: Pool
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(APART))

    @classmethod
    def make(cls, *, lock_seconds: float) -> Pools:
        return cls(
            queue=make_pool(name="courier", max_size=3, lock_seconds=lock_seconds),
            reading=make_pool(name="courier-read", max_size=1, lock_seconds=lock_seconds),
            apart=make_pool(name="courier-apart", max_size=APART, lock_seconds=lock_seconds),
            recording=make_pool(name="courier-record", max_size=RECORDERS, lock_seconds=lock_seconds),
        )

    async def open(self) -> None:
        for pool in (self.queue, self.reading, self.apart, self.recording):
            await pool.open()

    async def close(self) -> None:
        for pool in (self.queue, self.reading, self.apart, self.recording):
            await pool.close()


@dataclass(frozen=True, slots=True)
class Backlog:
    """A lane and domain with jobs that nobody has claimed, its server, and in how many seconds the first is due."""

    lane: str
    domain_id: int
    host: str
    port: int
    due_in: float


@dataclass(frozen=True, slots=True)
class Queue:
    """A lane: its jobs (counted up to MOST_COUNTED), the age of its oldest, and how long one is due that nobody has."""

    lane: str
    jobs: int
    oldest_seconds: float
    overdue_seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """A recipient row with what its message needs for a delivery."""

    id: int
    message_id: int
    address: str
    action: str
    category: str
    score: float
    trace_id: str
    kind: str
    received_at: datetime
    client_ip: str
    ptr_name: str
    helo: str
    tls: str
    sender: str
    size: int
    sha256: bytes
    stored: tuple[int, bytes] | None = None  # codec and data, where they came along


@lru_cache(maxsize=8192)
def in_schema(statement: str, schema: str) -> Query:
    """`statement` with the tables of a provider's schema."""
    tables = {name: sql.Identifier(schema, f"quarantine_{name}") for name in TABLES}
    return Query.from_text(sql.SQL(statement).format(**tables).as_bytes(None))


async def list_backlog(pool: Pool) -> list[Backlog]:
    async with pool.connection() as database:
        return [Backlog(*row) for row in await (await database.execute(LIST_BACKLOG)).fetchall()]


async def measure_queues(database: AsyncConnection[TupleRow]) -> list[Queue]:
    """Every lane; the time that it may take is for the caller to bound (statement_timeout)."""
    backlog = [Backlog(*row) for row in await (await database.execute(LIST_BACKLOG)).fetchall()]
    overdue = {name: max((-entry.due_in for entry in backlog if entry.lane == name), default=0) for name in Lane.values}
    measured = await database.execute(MEASURE_QUEUES, [MOST_COUNTED, list(Lane.values)])
    return [Queue(lane, jobs, max(age, 0), max(overdue[lane], 0)) for lane, jobs, age in await measured.fetchall()]


async def claim(pool: Pool, wanted: list[tuple[str, int, int]], *, instance: str) -> list[Job]:
    """Claim due jobs: of each (lane, domain, number), the oldest that nobody has, up to that number."""
    lanes, domains, numbers = zip(*wanted, strict=True)
    values = [list(lanes), list(domains), list(numbers), instance, LEASE_SECONDS]
    async with pool.connection() as database:
        return [Job(*row) for row in await (await database.execute(CLAIM, values)).fetchall()]


async def renew(pool: Pool, held: Iterable[int], *, instance: str) -> None:
    """Keep the claims on the jobs in hand, give up those on all others of ours."""
    async with pool.connection() as database:
        await database.execute(RENEW, {"held": list(held), "lease": LEASE_SECONDS, "me": instance})


async def find_jobs(pool: Pool, jobs: list[int]) -> dict[int, tuple[str, int, datetime]]:
    """Of those that are there: schema, recipient, and when it was made."""
    async with pool.connection() as database:
        found = await (await database.execute(FIND_JOBS, [jobs])).fetchall()
        return {job: (schema, recipient, created_at) for job, schema, recipient, created_at in found}


async def adopt(pool: Pool, jobs: list[int], *, former: str, instance: str) -> None:
    """Take over claims."""
    async with pool.connection() as database:
        values = {"jobs": jobs, "former": former, "me": instance, "lease": LEASE_SECONDS}
        await database.execute(ADOPT, values)


async def hasten(pool: Pool, domains: list[int]) -> int:
    async with pool.connection() as database:
        return (await database.execute(HASTEN, [domains])).rowcount


async def load_rows(pool: Pool, recipients: Mapping[str, list[int]]) -> dict[str, dict[int, Row]]:
    """By schema, the rows of these recipients that are still to be delivered; of few in a schema, small content comes
    along. One round trip.
    """
    wanted = {schema: (LOAD, {"ids": ids, "small": SMALL, "few": FEW}) for schema, ids in recipients.items()}
    async with pool.connection() as database:
        found = await _ask_each(database, wanted)
        return {schema: {row[0]: _make_row(row) for row in rows} for schema, rows in found.items()}


def _make_row(values: TupleRow) -> Row:
    *told, codec, data = values
    return Row(*(*told, None if data is None else (codec, data)))


async def load_contents(pool: Pool, messages: Mapping[str, list[int]]) -> dict[str, dict[int, tuple[int, bytes]]]:
    """By schema, codec and stored form of each of these messages that has them. One round trip."""
    async with pool.connection() as database:
        found = await _ask_each(database, {schema: (LOAD_CONTENT, {"ids": ids}) for schema, ids in messages.items()})
        return {schema: {row[0]: (row[1], row[2]) for row in rows} for schema, rows in found.items()}


async def _ask_each(
    database: AsyncConnection[TupleRow], statements: Mapping[str, tuple[str, dict[str, Any]]]
) -> dict[str, list[TupleRow]]:
    """What is found in each schema by its statement, with the values for it."""
    async with database.pipeline():
        cursors = {
            schema: await in_schema(statement, schema).execute(database, values)
            for schema, (statement, values) in statements.items()
        }
        return {schema: await cursor.fetchall() for schema, cursor in cursors.items()}


async def record(pool: Pool, outcomes: list[Outcome], *, instance: str) -> list[tuple[Outcome, str]]:
    """Record in one transaction: jobs, states, trace, and content that is no longer needed.

    An outcome whose job is no longer there (or, for a later attempt, no longer ours) was recorded before: it is
    left out. Returns the others with the state that each recipient is in now.
    """
    async with pool.connection() as database, database.transaction():
        valid = await _settle_jobs(database, outcomes, instance)
        by_schema: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.job_id in valid and outcome.result is not Result.VOID:
                by_schema[outcome.schema].append(outcome)
        return await _record_states(database, by_schema)


async def _settle_jobs(database: AsyncConnection[TupleRow], outcomes: list[Outcome], instance: str) -> set[int]:
    in_order = sorted(outcomes, key=lambda each: each.job_id)
    ended = [each for each in in_order if each.result is not Result.LATER]
    later = [each for each in in_order if each.result is Result.LATER]
    valid: set[int] = set()
    if ended:
        valid.update(row[0] for row in await (await database.execute(END_JOBS, _name_jobs(ended))).fetchall())
    if later:
        values = _name_jobs(later) | {"pauses": [each.pause for each in later], "me": instance}
        valid.update(row[0] for row in await (await database.execute(POSTPONE, values)).fetchall())
    return valid


def _name_jobs(outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "jobs": [each.job_id for each in outcomes],
        "schemas": [each.schema for each in outcomes],
        "recipients": [each.recipient_id for each in outcomes],
    }


async def _record_states(
    database: AsyncConnection[TupleRow], by_schema: Mapping[str, list[Outcome]]
) -> list[tuple[Outcome, str]]:
    schemas = sorted(by_schema)  # in one order: two couriers wait for each other, and do not deadlock
    changed = await _ask_each(database, {schema: _make_record(by_schema[schema]) for schema in schemas})
    finished = {
        schema: sorted({message for _, message, state, is_kept in rows if is_kept and state == "delivered"})
        for schema, rows in changed.items()
    }
    async with database.pipeline():
        for schema in filter(finished.get, schemas):
            await in_schema(LOCK_CONTENT, schema).execute(database, [finished[schema]])
            await in_schema(DROP_CONTENT, schema).execute(database, [finished[schema], list(NEEDING)])
    outcomes = {(schema, outcome.recipient_id): outcome for schema in schemas for outcome in by_schema[schema]}
    return [(outcomes[schema, recipient], state) for schema in schemas for recipient, _, state, _ in changed[schema]]


def _make_record(outcomes: list[Outcome]) -> tuple[str, dict[str, Any]]:
    rows = [
        {"id": each.recipient_id, "result": each.result.value, "reply": each.reply, "text": each.text, "at": each.at}
        for each in outcomes
    ]
    if len(rows) == 1:
        return RECORD_ONE, rows[0]
    return RECORD_MANY, {name: [row[name] for row in rows] for name in rows[0]}
