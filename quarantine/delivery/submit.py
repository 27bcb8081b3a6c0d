"""Mail of our own making (digests, notices), straight to the customer's server: past all filtering."""

from __future__ import annotations

import hashlib

from django.db import transaction
from django.utils import timezone

from portal.tenants.database import get_schema
from portal.tenants.people.models import Mailbox
from quarantine.content import compress
from quarantine.models import Category, Content, Event, Message, MessageKind, Recipient, State
from quarantine.platform.models import DeliveryJob, Lane
from quarantine.trace_id import make_trace_id


def submit(*, mailbox: Mailbox, raw: bytes, kind: MessageKind, lane: Lane, subject: str, sender: str = "") -> Message:
    """Hand `raw` to the courier for `mailbox`, in the schema we are in; it leaves when the transaction commits.

    `sender` empty is the null reverse-path, as automatic mail should have (RFC 3834 3.3, RFC 5321 4.5.5).
    """
    with transaction.atomic():
        message = _keep(raw, kind=kind, subject=subject, sender=sender)
        recipient = Recipient.objects.create(
            message=message,
            address=mailbox.address,
            mailbox=mailbox,
            domain_id=mailbox.domain_id,
            received_at=message.received_at,
            state=State.DELIVERING,
            action="deliver",
            category=Category.CLEAN,
        )
        Event.objects.create(message=message, recipient=recipient, kind="submitted", text=kind.value)
        DeliveryJob.objects.create(
            schema=get_schema(), recipient_id=recipient.pk, domain_id=mailbox.domain_id, lane=lane
        )
    return message


def _keep(raw: bytes, *, kind: MessageKind, subject: str, sender: str) -> Message:
    message = Message.objects.create(
        trace_id=make_trace_id(),
        kind=kind,
        received_at=timezone.now(),
        sender=sender,
        size=len(raw),
        sha256=hashlib.sha256(raw).digest(),
        subject=subject.replace("\0", "")[:500],
    )
    codec, data = compress(raw)
    Content.objects.create(message=message, codec=codec, data=data)
    return message
