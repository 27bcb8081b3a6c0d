"""Held mail for the tests of reports, and the reports that were handed to the courier."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from itertools import count

from django.utils import timezone

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine.content import compress
from quarantine.models import Category, Content, Message, MessageKind, Recipient, State
from quarantine.queries import read_raw
from quarantine.trace_id import make_trace_id
from reports.models import Digest

HOUR = timedelta(hours=1)
LINK = re.compile(r"http://[a-z.]+:\d+/d/([a-z2-7]{32})/")
CODE = re.compile(r"Code: (\d{3} \d{3})")
numbers = count(1)


def get_mailbox(address: str = "bob@alpha.test") -> Mailbox:
    return Mailbox.objects.get(address=address)


def get_domain(name: str = "alpha.test") -> MailDomain:
    return MailDomain.objects.get(name=name)


def hold(mailbox: Mailbox, *, at: datetime | None = None, category: str = Category.SPAM, **fields) -> Recipient:
    """A message in quarantine for the mailbox, received at that time."""
    number, at = next(numbers), at or timezone.now()
    raw = f"Subject: spam {number}\r\n\r\nBuy.\r\n".encode()
    shown = {"subject": f"Spam {number}", "header_from": f"Seller {number} <seller{number}@spam.test>"}
    message = Message.objects.create(
        trace_id=make_trace_id(), received_at=at, sender="bounce@spam.test", size=len(raw),
        **shown | {name: value for name, value in fields.items() if name in shown},
    )  # fmt: skip
    codec, data = compress(raw)
    Content.objects.create(message=message, codec=codec, data=data)
    return Recipient.objects.create(
        message=message,
        address=fields.get("address", mailbox.address),
        mailbox=mailbox,
        domain_id=mailbox.domain_id,
        received_at=at,
        state=State.QUARANTINED,
        action="quarantine",
        category=category,
        score=fields.get("score", 7.5),
    )


def read_mail(digest: Digest) -> EmailMessage:
    assert digest.message is not None
    return message_from_bytes(read_raw(digest.message), policy=default)


def read_text(digest: Digest) -> str:
    return read_mail(digest).get_body(("plain",)).get_content()


def read_html(digest: Digest) -> str:
    return read_mail(digest).get_body(("html",)).get_content()


def list_handed_over() -> list[Message]:
    return list(Message.objects.filter(kind=MessageKind.DIGEST).order_by("pk"))
