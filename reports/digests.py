"""Reports are made here: what is held, the mail about it, its links, and the hand-over to the courier."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import Mailbox
from quarantine.delivery.submit import Parcel, submit_all
from quarantine.models import MessageKind, Recipient
from quarantine.platform.models import Lane
from reports import links, mail, queries
from reports.models import Digest, DigestLink
from reports.queries import Window
from reports.slots import is_slot, move_slot, next_slot

logger = logging.getLogger(__name__)

BATCH = 50  # reports a transaction
ON_DEMAND_COVERS = timedelta(hours=24)
POSTPONE = timedelta(minutes=15)  # a daily report that could not be made is tried again after this
GIVE_UP_AFTER = timedelta(hours=1)  # a report asked for: nobody waits for it any longer
NOTHING_HELD = "nothing was held, and the provider sends no empty reports"
NO_DOMAIN = "the mailbox's domain is not the provider's any more"
NOT_MADE = "it could not be made; the log says why"


@dataclass(frozen=True)
class Desk:
    """What the reports of one batch share, looked up once."""

    brand: mail.Brand
    domains: dict[int, MailDomain]
    now: datetime


def open_desk(mailboxes: Iterable[Mailbox], now: datetime) -> Desk:
    provider = ServiceProvider.objects.get(schema_name=get_schema())
    domains = MailDomain.objects.filter(provider=provider).in_bulk({mailbox.domain_id for mailbox in mailboxes})
    return Desk(mail.get_brand(provider), domains, now)


def send_due(*, limit: int = BATCH) -> int:
    """Make the daily reports that are due, at most `limit`; how many mailboxes were dealt with.

    Rows, links, hand-over and the next slot are one transaction, so it may be run twice and by many at once.
    A report that cannot be made holds up no other: it is put off by itself.
    """
    due = queries.list_due(timezone.now())
    try:
        return _send_due(due, limit)
    except Exception:
        logger.exception("digest_batch_failed schema=%s", get_schema())
        return sum(_send_due_alone(pk) for pk in due.values_list("pk", flat=True)[:limit])


def send_requested(ids: Sequence[int]) -> int:
    """Make those of the reports asked for that are not made yet; how many. Safe to be run twice and by many at once."""
    try:
        return _send_requested(ids)
    except Exception:
        logger.exception("digest_batch_failed schema=%s", get_schema())
        return sum(_send_requested_alone(pk) for pk in ids)


@transaction.atomic
def _send_due(due: QuerySet[Mailbox], limit: int) -> int:
    claimed = queries.claim_due(due, limit=limit)
    desk = open_desk(claimed, timezone.now())
    slots = {mailbox.pk: slot for mailbox in claimed if (slot := _move_on(mailbox, desk))}
    mailboxes = [mailbox for mailbox in claimed if mailbox.pk in slots]
    windows = queries.list_held_since_last(mailboxes, until=desk.now)
    digests = {
        mailbox.pk: Digest(mailbox=mailbox, kind=Digest.Kind.DAILY, slot_at=slots[mailbox.pk], until=desk.now)
        for mailbox in mailboxes
    }
    printed = _hand_over(desk, digests, windows)
    Digest.objects.bulk_create(digests.values())
    DigestLink.objects.bulk_create(printed, batch_size=1000)
    _save_slots(claimed)
    return len(claimed)


@transaction.atomic
def _send_requested(ids: Sequence[int]) -> int:
    digests = {digest.pk: digest for digest in queries.claim_requested(ids)}
    desk = open_desk((digest.mailbox for digest in digests.values()), timezone.now())
    windows = queries.list_held_since_asked(list(digests.values()), until=desk.now)
    for digest in digests.values():
        digest.until = desk.now
    printed = _hand_over(desk, digests, windows)
    Digest.objects.bulk_update(digests.values(), ["state", "reason", "until", "held", "message"])
    DigestLink.objects.bulk_create(printed, batch_size=1000)
    return len(digests)


def _send_due_alone(pk: int) -> int:
    try:
        return _send_due(queries.list_due(timezone.now()).filter(pk=pk), 1)
    except Exception:
        logger.exception("digest_failed schema=%s mailbox=%d", get_schema(), pk)
        return Mailbox.objects.filter(pk=pk).update(next_digest_at=timezone.now() + POSTPONE)


def _send_requested_alone(pk: int) -> int:
    try:
        return _send_requested([pk])
    except Exception:
        logger.exception("digest_failed schema=%s digest=%d", get_schema(), pk)
        old = Digest.objects.filter(pk=pk, state=Digest.State.DUE, slot_at__lte=timezone.now() - GIVE_UP_AFTER)
        old.update(state=Digest.State.SKIPPED, reason=NOT_MADE)
        return 0


def _move_on(mailbox: Mailbox, desk: Desk) -> datetime | None:
    """Set the mailbox's next slot; the slot that a report is to be made for now, if any."""
    domain, slot = desk.domains.get(mailbox.domain_id), mailbox.next_digest_at
    if domain is None:
        mailbox.next_digest_at = desk.now + timedelta(days=1)
        logger.warning("digest_without_domain schema=%s mailbox=%d", get_schema(), mailbox.pk)
        return None
    hour = domain.digest_hour if mailbox.digest_hour is None else mailbox.digest_hour
    mailbox.next_digest_at = next_slot(hour, domain.time_zone, desk.now)
    if slot is None or not mailbox.wants_digest or mailbox.made:  # type: ignore[attr-defined]
        return None
    moved = move_slot(slot, hour, domain.time_zone)
    if moved > desk.now and is_slot(slot, domain.time_zone):  # the hour was put off since: later on the same day
        mailbox.next_digest_at = moved
        return None
    return slot


def _save_slots(mailboxes: Iterable[Mailbox]) -> None:
    """One statement for each different slot: mailboxes of a domain mostly share theirs."""
    by_slot: dict[datetime | None, list[int]] = {}
    for mailbox in mailboxes:
        by_slot.setdefault(mailbox.next_digest_at, []).append(mailbox.pk)
    for slot, ids in by_slot.items():
        Mailbox.objects.filter(pk__in=ids).update(next_digest_at=slot)


def _hand_over(desk: Desk, digests: Mapping[int, Digest], windows: Mapping[int, Window]) -> list[DigestLink]:
    """Fill in the digests and give their mails to the courier; the links printed in them, still to be saved."""
    items = queries.get_items(list(windows.values()))
    printed: list[DigestLink] = []
    parcels: dict[int, Parcel] = {}
    for key, digest in digests.items():
        window = windows[key]
        listed = [items[pk] for pk in window.listed if pk in items]
        digest.held = window.total - (len(window.listed) - len(listed))
        digest.since, digest.tail = window.since, window.tail
        digest.reason = _find_reason_to_skip(desk, digest)
        digest.state = Digest.State.SKIPPED if digest.reason else Digest.State.SENT
        if not digest.reason:
            parcels[key] = _pack(desk, digest, listed, printed)
    messages = submit_all(list(parcels.values()), kind=MessageKind.DIGEST, lane=Lane.DIGEST)
    for key, message in zip(parcels, messages, strict=True):
        digests[key].message = message
    return printed


def _find_reason_to_skip(desk: Desk, digest: Digest) -> str:
    if digest.mailbox.domain_id not in desk.domains:
        return NO_DOMAIN
    is_daily = digest.kind == Digest.Kind.DAILY
    return NOTHING_HELD if is_daily and not digest.held and not desk.brand.provider.send_empty_digests else ""


def _pack(desk: Desk, digest: Digest, listed: Sequence[Recipient], printed: list[DigestLink]) -> Parcel:
    """The digest's mail; its links are added to `printed`."""
    mailbox, domain = digest.mailbox, desk.domains[digest.mailbox.domain_id]
    lines = []
    for recipient in listed:
        url = code = ""
        if links.is_releasable(recipient):
            secret = links.make_secret()
            printed.append(links.make_link(secret, digest, recipient, days=domain.retention_days))
            url, code = f"{desk.brand.portal_url}/d/{secret.token}/", secret.code
        lines.append(mail.describe(recipient, mailbox=mailbox.address, time_zone=domain.time_zone, url=url, code=code))
    report = mail.Report(
        brand=desk.brand,
        address=mailbox.address,
        time_zone=domain.time_zone,
        since=digest.since,
        until=digest.until,
        total=digest.held,
        lines=lines,
        on_demand=digest.kind == Digest.Kind.ON_DEMAND,
    )
    return Parcel(mailbox, mail.make_mail(report, at=desk.now), report.subject)
