"""Mail of our own making (digests, notices), straight to the customer's server: past all filtering."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from email.utils import parseaddr, quote

from django.db import transaction
from django.utils import timezone

from filtering.evidence.headers import decode_header
from portal.tenants.database import get_schema
from portal.tenants.people.models import Mailbox
from quarantine.content import compress
from quarantine.models import Category, Content, Event, Message, MessageKind, Recipient, State
from quarantine.platform.models import DeliveryJob, Lane
from quarantine.trace_id import make_trace_id


@dataclass(frozen=True, slots=True)
class Parcel:
    """A mail of our own and the mailbox it is for."""

    mailbox: Mailbox
    raw: bytes
    subject: str


def submit(*, mailbox: Mailbox, raw: bytes, kind: MessageKind, lane: Lane, subject: str, sender: str = "") -> Message:
    """Hand `raw` to the courier for `mailbox`, in the schema we are in; it leaves when the transaction commits.

    `sender` empty is the null reverse-path, as automatic mail should have (RFC 3834 3.3, RFC 5321 4.5.5).
    """
    return submit_all([Parcel(mailbox, raw, subject)], kind=kind, lane=lane, sender=sender)[0]


@transaction.atomic
def submit_all(parcels: Sequence[Parcel], *, kind: MessageKind, lane: Lane, sender: str = "") -> list[Message]:
    """As `submit`, for many at the cost of few statements; the messages in the order of the parcels."""
    messages = _keep(parcels, kind=kind, sender=sender)
    recipients = Recipient.objects.bulk_create(
        Recipient(
            message=message,
            address=parcel.mailbox.address,
            mailbox=parcel.mailbox,
            domain_id=parcel.mailbox.domain_id,
            received_at=message.received_at,
            state=State.DELIVERING,
            action="deliver",
            category=Category.CLEAN,
        )
        for parcel, message in zip(parcels, messages, strict=True)
    )
    Event.objects.bulk_create(
        Event(message_id=row.message_id, recipient=row, kind="submitted", text=kind.value) for row in recipients
    )
    DeliveryJob.objects.bulk_create(
        DeliveryJob(schema=get_schema(), recipient_id=row.pk, domain_id=row.domain_id, lane=lane) for row in recipients
    )
    return messages


def _read_from(raw: bytes) -> str:
    """The From of a mail of our own, as lists and pages show it."""
    block = raw.partition(b"\r\n\r\n")[0]
    name, address = parseaddr(str(BytesHeaderParser().parsebytes(block)["From"] or ""))
    return f'"{quote(decode_header(name))}" <{address}>'[:500] if name else address


def _keep(parcels: Sequence[Parcel], *, kind: MessageKind, sender: str) -> list[Message]:
    messages = Message.objects.bulk_create(
        Message(
            trace_id=make_trace_id(),
            kind=kind,
            received_at=timezone.now(),
            sender=sender,
            size=len(parcel.raw),
            sha256=hashlib.sha256(parcel.raw).digest(),
            header_from=_read_from(parcel.raw),
            subject=parcel.subject.replace("\0", "")[:500],
        )
        for parcel in parcels
    )
    packed = (compress(parcel.raw) for parcel in parcels)
    Content.objects.bulk_create(
        Content(message=message, codec=codec, data=data)
        for message, (codec, data) in zip(messages, packed, strict=True)
    )
    return messages
