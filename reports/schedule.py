"""When reports are due, and reports that somebody asks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.db import transaction
from django.db.models import Max, Q, QuerySet
from django.utils import timezone

from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, User
from reports.digests import BATCH, ON_DEMAND_COVERS
from reports.models import Digest
from reports.slots import move_slot, next_slot
from reports.tasks import send_requested_digests

__all__ = ["next_slot", "request_digest", "reschedule"]

ASK_AGAIN_AFTER = timedelta(minutes=1)


@transaction.atomic
def request_digest(mailboxes: QuerySet[Mailbox], *, by: User | None) -> int:
    """Have the last 24 hours reported to each of the mailboxes, within seconds of the commit; how many were taken.

    Those that the same person asked for less than a minute ago are not asked for again and not counted.
    Hand in what the person may see. The daily report is not touched. If the task is lost, the rows are found by
    the dispatcher.
    """
    now = timezone.now()
    recent = Digest.objects.filter(kind=Digest.Kind.ON_DEMAND, requested_by=by, slot_at__gt=now - ASK_AGAIN_AFTER)
    wanted = {mailbox.pk: mailbox for mailbox in _lock(mailboxes)}  # two clicks follow each other
    for pk in recent.filter(mailbox__in=wanted).values_list("mailbox", flat=True):
        wanted.pop(pk, None)
    made = Digest.objects.bulk_create(
        Digest(
            mailbox=mailbox, kind=Digest.Kind.ON_DEMAND, slot_at=now, since=now - ON_DEMAND_COVERS, until=now,
            requested_by=by,
        )
        for mailbox in wanted.values()
    )  # fmt: skip
    _enqueue([digest.pk for digest in made])
    return len(made)


def _lock(mailboxes: QuerySet[Mailbox]) -> list[Mailbox]:
    """Not FOR UPDATE: mail arriving for a mailbox locks its key."""
    return list(mailboxes.order_by("pk").select_for_update(no_key=True, of=("self",)))


def _enqueue(ids: Sequence[int]) -> None:
    schema = get_schema()

    def send() -> None:
        for start in range(0, len(ids), BATCH):
            send_requested_digests.apply_async((schema, list(ids[start : start + BATCH])), retry=False)

    transaction.on_commit(send, robust=True)  # with the broker away, the dispatcher finds the rows


@transaction.atomic
def reschedule(mailboxes: QuerySet[Mailbox]) -> int:
    """Give the mailboxes their next slot after an hour or a time zone was changed; how many.

    A mailbox that had its report on the day of the new slot gets the next one on the day after: one a day.
    Without this call a change takes effect a day later at most.
    """
    domains = MailDomain.objects.in_bulk(set(mailboxes.values_list("domain_id", flat=True)))
    last = Max("digests__slot_at", filter=Q(digests__kind=Digest.Kind.DAILY))
    _lock(mailboxes)  # a report that is being made now counts as the day's
    changed = list(mailboxes.filter(domain_id__in=domains).annotate(last_slot=last))
    for mailbox in changed:
        zone = domains[mailbox.domain_id].time_zone
        hour = domains[mailbox.domain_id].digest_hour if mailbox.digest_hour is None else mailbox.digest_hour
        slot = next_slot(hour, zone, timezone.now())
        if mailbox.last_slot and move_slot(mailbox.last_slot, hour, zone) == slot:
            slot = next_slot(hour, zone, slot)
        mailbox.next_digest_at = slot
    return Mailbox.objects.bulk_update(changed, ["next_digest_at"], batch_size=1000)
