"""What is kept for how long. The rules, as people may read them:

* Mail in quarantine is kept for as many days as its domain says (`retention_days`, 30 unless changed) after it was
  received; then its state is `expired` and its content goes.
* Mail that the customer's server refused, or did not take in five days, is kept for as many days after that.
* Released mail keeps its content as long as held mail of the same age, so that it can be looked at again.
* Delivered, refused, deleted and expired mail keeps no content (unless another recipient's row needs it).
* The trace of mail that was taken (who, when, what, why, and every reply) is kept: nothing here deletes it.
* The trace of a recipient whose mail was refused, or not finished, is kept for 90 days; so is what reached no provider.
* The counts of an hour are kept for 400 days, to be compared with those a year before.
* Receipts, by which a message sent again is known, are kept for an hour: six times as long as they are good for. Those
  of which the sender did not hear are good for a day, and kept for an hour more.
* After more than three days without a round of this, nothing but receipts goes for a day: the clock may be wrong
  (quarantine.platform.rounds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain
from quarantine.content import DROP_CONTENT, LOCK_CONTENT, NEEDING
from quarantine.models import UNTAKEN, Event, Message, Recipient, State
from quarantine.platform.models import HourlyCount, Receipt, Unrouted

BATCH = 1000  # rows a transaction: short locks, whatever has piled up
DEFAULT_DAYS = 30  # for mail of a domain that is no longer there
UNTAKEN_DAYS = 90
COUNT_DAYS = 400
RECEIPT_HOURS = 1
TABLES = {"content": "quarantine_content", "recipient": "quarantine_recipient"}

EXPIRE = """
WITH changed AS (
    UPDATE quarantine_recipient SET state = 'expired', changed_at = now(), changed_by = ''
    WHERE id = ANY(%s) AND state IN ('quarantined', 'held') RETURNING id, message_id
),
traced AS (
    INSERT INTO quarantine_event (message_id, recipient_id, at, kind, text, actor)
    SELECT message_id, id, now(), 'expired', %s, '' FROM changed
)
SELECT message_id FROM changed
"""
# Content outlives its rows' need only where a row was released: index recipient_listed_domain.
FIND_OUTLIVED = """
SELECT released.message_id FROM quarantine_recipient released
WHERE released.listed = 'released' AND released.received_at < %(before)s AND {domain}
AND EXISTS (SELECT 1 FROM quarantine_content c WHERE c.message_id = released.message_id)
AND {unneeded} LIMIT %(batch)s
"""
DROP_OUTLIVED = "DELETE FROM quarantine_content released WHERE message_id = ANY(%(messages)s) AND {unneeded}"
UNNEEDED = """NOT EXISTS (
    SELECT 1 FROM quarantine_recipient r LEFT JOIN public.tenants_maildomain d ON d.id = r.domain_id
    WHERE r.message_id = released.message_id AND (
        r.state = ANY(%(needing)s) OR r.state = 'released'
        AND r.received_at >= %(now)s - make_interval(days => coalesce(d.retention_days, %(default)s))
    )
)"""
OF_DOMAIN = "released.domain_id = %(domain)s"
OF_NO_DOMAIN = "released.domain_id <> ALL(%(domains)s)"


def drop_unneeded(messages: Iterable[int]) -> None:
    """Drop the content of those messages that no recipient row needs any more. Inside the caller's transaction."""
    ids = sorted(set(messages))
    if ids:
        with connection.cursor() as cursor:
            cursor.execute(LOCK_CONTENT.format(**TABLES), [ids])
            cursor.execute(DROP_CONTENT.format(**TABLES), [ids, list(NEEDING)])


def expire_held() -> int:
    """Expire what was held for longer than its domain says, in the schema we are in; returns how many rows."""
    days = get_days()
    expired = sum(_expire(Q(domain_id=domain), kept) for domain, kept in days.items())
    return expired + _expire(~Q(domain_id__in=list(days)), DEFAULT_DAYS)


def _expire(domain: Q, days: int) -> int:
    """Both kinds of held mail of one domain, the oldest first; what was refused lately is passed over. Index
    recipient_listed_domain (of no domain: recipient_listed_all).
    """
    before = timezone.now() - timedelta(days=days)
    old = domain & Q(received_at__lt=before)
    return _expire_all(old & Q(listed=State.QUARANTINED), days) + _expire_all(
        old & Q(listed=State.HELD, changed_at__lt=before), days
    )


def _expire_all(which: Q, days: int) -> int:
    total = 0
    while True:
        found = _expire_batch(which, f"kept for {days} days")
        total += found
        if found < BATCH:
            return total


def _expire_batch(which: Q, text: str) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        rows = Recipient.objects.select_for_update(skip_locked=True).filter(which).order_by("received_at")
        ids = list(rows.values_list("pk", flat=True)[:BATCH])
        cursor.execute(EXPIRE, [ids, text])
        messages = [row[0] for row in cursor.fetchall()]
        drop_unneeded(messages)
    return len(messages)


def drop_outlived() -> int:
    """Drop the content of released mail whose retention is over; returns how many messages."""
    days = get_days()
    dropped = sum(_drop_outlived(OF_DOMAIN, kept, domain=domain) for domain, kept in days.items())
    return dropped + _drop_outlived(OF_NO_DOMAIN, DEFAULT_DAYS, domains=list(days))


def _drop_outlived(where: str, days: int, **which: Any) -> int:
    now = timezone.now()
    values = which | {
        "now": now,
        "before": now - timedelta(days=days),
        "needing": [state for state in NEEDING if state != State.RELEASED.value],
        "default": DEFAULT_DAYS,
        "batch": BATCH,
    }
    query = FIND_OUTLIVED.format(domain=where, unneeded=UNNEEDED)
    total, found = 0, BATCH
    while found == BATCH:
        found, dropped = _drop_outlived_batch(query, values)
        total += dropped
    return total


def _drop_outlived_batch(query: str, values: dict[str, Any]) -> tuple[int, int]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(query, values)
        found = [row[0] for row in cursor.fetchall()]
        messages = sorted(set(found))
        cursor.execute(LOCK_CONTENT.format(**TABLES), [messages])
        # Asked again under the lock: a release may have come in between.
        cursor.execute(DROP_OUTLIVED.format(unneeded=UNNEEDED), values | {"messages": messages})
        return len(found), int(cursor.rowcount)


def get_days() -> dict[int, int]:
    """For how many days each domain of the schema we are in keeps its mail."""
    return dict(MailDomain.objects.filter(provider__schema_name=get_schema()).values_list("pk", "retention_days"))


def forget_untaken() -> int:
    """Forget who was refused or left unfinished 90 days ago, in the schema we are in; returns how many recipients.

    A transaction that was taken for nobody goes whole. Index recipient_listed_all.
    """
    before = timezone.now() - timedelta(days=UNTAKEN_DAYS)
    return _repeat(lambda: _forget_untaken_batch(before))


def _forget_untaken_batch(before: datetime) -> int:
    with transaction.atomic():
        old = Recipient.objects.filter(listed=UNTAKEN, received_at__lt=before).order_by("received_at", "pk")
        rows = dict(old.select_for_update(skip_locked=True).values_list("pk", "message_id")[:BATCH])
        Event.objects.filter(message__in=set(rows.values()), recipient__in=rows).delete()
        Recipient.objects.filter(pk__in=rows).delete()
        Message.objects.filter(pk__in=set(rows.values()), recipients=None, content=None).delete()
    return len(rows)


def forget_platforms(*, only_receipts: bool = False) -> dict[str, int]:
    """Forget what the public schema need not know any more; returns how many rows of each kind. Each has its index."""
    now = timezone.now()
    forgotten = {"receipts": _forget(Receipt, at__lt=now - timedelta(hours=RECEIPT_HOURS))}
    if not only_receipts:
        forgotten["unrouted"] = _forget(Unrouted, at__lt=now - timedelta(days=UNTAKEN_DAYS))
        forgotten["counts"] = _forget(HourlyCount, hour__lt=now - timedelta(days=COUNT_DAYS))
    return forgotten


def _forget(model: type[Unrouted | HourlyCount | Receipt], **old: datetime) -> int:
    rows = model._default_manager.filter(**old)
    # Asked again by the statement that deletes: a receipt may have been renewed in between.
    return _repeat(lambda: rows.filter(pk__in=list(rows.values_list("pk", flat=True)[:BATCH])).delete()[0])


def _repeat(forget_batch: Callable[[], int]) -> int:
    total, found = 0, BATCH
    while found == BATCH:
        found = forget_batch()
        total += found
    return total
