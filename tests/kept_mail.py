"""Rows as the gateway leaves them, for tests of what comes after it. To be called inside a provider's schema."""

from __future__ import annotations

import hashlib
from datetime import datetime

from django.utils import timezone

from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine.content import compress
from quarantine.models import Category, Content, Message, Recipient, State
from quarantine.platform.models import DeliveryJob, Lane
from quarantine.trace_id import make_trace_id

RAW = b"From: Spammer <spam@far.test>\r\nSubject: Buy now\r\n\r\nhello\r\n"


def keep(
    *addresses: str,
    raw: bytes = RAW,
    state: str = State.QUARANTINED,
    sender: str = "spam@far.test",
    subject: str = "Buy now",
    received_at: datetime | None = None,
    **fields,
) -> Message:
    """One message for all `addresses`, with content and recipient rows."""
    message = Message.objects.create(
        trace_id=make_trace_id(),
        received_at=received_at or timezone.now(),
        client_ip="192.0.2.25",
        helo="mail.far.test",
        sender=sender,
        size=len(raw),
        sha256=hashlib.sha256(raw).digest(),
        header_from=f"Spammer <{sender}>",
        subject=subject,
    )
    codec, data = compress(raw)
    Content.objects.create(message=message, codec=codec, data=data)
    for address in addresses:
        add_recipient(message, address, state=state, **fields)
    return message


def add_recipient(message: Message, address: str, **fields) -> Recipient:
    values = {"state": State.QUARANTINED, "action": "quarantine", "category": Category.SPAM, "score": 7.5} | fields
    return Recipient.objects.create(
        message=message,
        address=address,
        mailbox=Mailbox.objects.filter(address=address).first(),
        domain_id=MailDomain.objects.get(name=address.rpartition("@")[2]).pk,
        received_at=message.received_at,
        **values,
    )


def send_off(*addresses: str, lane: str = Lane.MAIL, **fields) -> Message:
    """One clean message with a delivery job for each of `addresses`."""
    values = {"state": State.DELIVERING, "action": "deliver", "category": Category.CLEAN, "score": 0} | fields
    message = keep(*addresses, **values)
    DeliveryJob.objects.bulk_create(
        DeliveryJob(schema=get_schema(), recipient_id=row.pk, domain_id=row.domain_id, lane=lane)
        for row in message.recipients.order_by("pk")
    )
    return message
