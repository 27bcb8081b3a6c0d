"""What the reports read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import OperationalError, ProgrammingError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from psycopg import sql
from psycopg.errors import LockNotAvailable

from portal.tenants.people.models import Mailbox
from quarantine.models import Recipient
from reports.models import Digest

SCHEMAS_A_QUERY = 200
LOCK_MILLISECONDS = 200  # less than PostgreSQL's deadlock_timeout: nobody else is chosen as a victim
LISTED = 100  # items with a line of their own in one report
LATE = timedelta(hours=1)  # the longest time from a message's received_at to the commit that shows it

# `asked` is one row a report; `tail` holds what the report before saw of the hour before `since`.
# One statement, so that the total and the list are of one snapshot. Index: recipient_listed_mailbox.
_HELD = """
SELECT asked.key, asked.since, seen.total, seen.tail, listed.ids
FROM asked
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE r.received_at >= asked.since OR r.id <> ALL (asked.tail)) AS total,
           coalesce(array_agg(r.id) FILTER (WHERE r.received_at >= %(until)s - %(late)s), '{}') AS tail
    FROM quarantine_recipient r
    WHERE r.mailbox_id = asked.mailbox_id AND r.listed = 'quarantined'
      AND r.received_at >= asked.since - asked.late AND r.received_at < %(until)s
) seen
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT r.id FROM quarantine_recipient r
        WHERE r.mailbox_id = asked.mailbox_id AND r.listed = 'quarantined'
          AND r.received_at >= asked.since - asked.late AND r.received_at < %(until)s
          AND (r.received_at >= asked.since OR r.id <> ALL (asked.tail))
        ORDER BY r.received_at DESC, r.id DESC LIMIT %(listed)s
    ) AS ids
) listed
"""
# Index: digest_once_a_slot, backwards.
_SINCE_LAST = """
WITH asked AS MATERIALIZED (
    SELECT m.id AS key, m.id AS mailbox_id, coalesce(last.until, m.created_at) AS since,
           coalesce(last.tail, '{}') AS tail, %(late)s::interval AS late
    FROM people_mailbox m
    LEFT JOIN LATERAL (
        SELECT d.until, d.tail FROM reports_digest d
        WHERE d.mailbox_id = m.id AND d.kind = 'daily' ORDER BY d.slot_at DESC LIMIT 1
    ) last ON true
    WHERE m.id = ANY (%(keys)s)
)
"""
_SINCE_ASKED = """
WITH asked AS MATERIALIZED (
    SELECT d.id AS key, d.mailbox_id, d.since, '{}'::bigint[] AS tail, interval '0' AS late
    FROM reports_digest d WHERE d.id = ANY (%(keys)s)
)
"""
# Indexes: next_digest_at, digest_due.
_WAITING = sql.SQL("""
SELECT {name} WHERE EXISTS (SELECT FROM {mailbox} WHERE next_digest_at <= %(now)s OR next_digest_at IS NULL)
    OR EXISTS (SELECT FROM {digest} WHERE state = 'due' AND slot_at <= %(asked_before)s)
""")


@dataclass(frozen=True)
class Window:
    """What one report covers: all that is held since `since`, the newest rows, and those of the last hour."""

    since: datetime
    total: int
    tail: list[int]
    listed: list[int]


def list_held_since_last(mailboxes: Sequence[Mailbox], *, until: datetime) -> dict[int, Window]:
    """By mailbox: what came into quarantine since its last daily report (the first: since it was made).

    No held message is in two of them or in none, even when its transaction ends after a report that covers the
    time it was received; the mailboxes are locked by the caller, so that reports of one follow each other.
    """
    return _list_held(_SINCE_LAST, [mailbox.pk for mailbox in mailboxes], until)


def list_held_since_asked(digests: Sequence[Digest], *, until: datetime) -> dict[int, Window]:
    """By digest: what came into quarantine since the digest's own `since`."""
    return _list_held(_SINCE_ASKED, [digest.pk for digest in digests], until)


def _list_held(asked: str, keys: list[int], until: datetime) -> dict[int, Window]:
    with connection.cursor() as cursor:
        values: dict[str, Any] = {"keys": keys, "until": until, "late": LATE, "listed": LISTED}
        cursor.execute(asked + _HELD, values)
        return {key: Window(since, total, tail, listed) for key, since, total, tail, listed in cursor.fetchall()}


def get_items(windows: Sequence[Window]) -> dict[int, Recipient]:
    """The listed rows with what is shown of their messages, by id."""
    ids = [pk for window in windows for pk in window.listed]
    rows = Recipient.objects.filter(pk__in=ids).select_related("message")
    shown = rows.only(
        "address", "category", "score", "received_at", "message__header_from", "message__subject", "message__sender"
    )
    return {row.pk: row for row in shown}


class LockedError(Exception):
    """Somebody else holds what was wanted locked."""


@contextmanager
def limited_wait() -> Iterator[None]:
    """A transaction that raises LockedError where it would wait for a lock: while it did, it would keep others from the
    tables that it has read.
    """
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise LockedError from error
        raise


def list_waiting(schemas: Sequence[str], *, now: datetime, asked_before: datetime) -> list[str]:
    """Providers' schemas with something in `list_due` or `list_requested`, and those asked with one that has no tables,
    or has them locked. One query for 200.
    """
    found: list[str] = []
    for start in range(0, len(schemas), SCHEMAS_A_QUERY):
        part = schemas[start : start + SCHEMAS_A_QUERY]
        try:
            found += _list_waiting(part, {"now": now, "asked_before": asked_before})
        except (ProgrammingError, LockedError):
            found += part
    return found


def _list_waiting(schemas: Sequence[str], values: dict[str, datetime]) -> list[str]:
    tables = {"mailbox": "people_mailbox", "digest": "reports_digest"}
    parts = [
        _WAITING.format(name=schema, **{name: sql.Identifier(schema, table) for name, table in tables.items()})
        for schema in schemas
    ]
    with limited_wait(), connection.cursor() as cursor:
        cursor.execute(sql.SQL(" UNION ALL ").join(parts), values)
        return [row[0] for row in cursor.fetchall()]


def list_due(now: datetime) -> QuerySet[Mailbox]:
    """Mailboxes whose slot has come, and those that never had one. Index: next_digest_at."""
    return Mailbox.objects.filter(Q(next_digest_at__lte=now) | Q(next_digest_at=None))


def claim_due(due: QuerySet[Mailbox], *, limit: int) -> list[Mailbox]:
    """Lock due mailboxes that no other worker has locked, the longest due first; `made` says that the slot has its
    digest. Not FOR UPDATE: mail arriving for a mailbox locks its key, and must not wait for a report.
    """
    made = Digest.objects.filter(kind=Digest.Kind.DAILY, mailbox=OuterRef("pk"), slot_at=OuterRef("next_digest_at"))
    found = due.annotate(made=Exists(made)).order_by("next_digest_at", "pk")
    return list(found.select_for_update(skip_locked=True, no_key=True, of=("self",))[:limit])


def list_requested(before: datetime) -> QuerySet[Digest]:
    """Reports asked for before that time and not sent yet. Index: digest_due."""
    return Digest.objects.filter(state=Digest.State.DUE, slot_at__lte=before).order_by("slot_at")


def claim_requested(ids: Sequence[int]) -> list[Digest]:
    """Lock those of the reports that are still to be sent and that no other worker has locked."""
    due = Digest.objects.filter(pk__in=ids, state=Digest.State.DUE).select_related("mailbox", "requested_by")
    return list(due.select_for_update(skip_locked=True, no_key=True, of=("self",)))
