"""Traces for the tests of pages: mail and counts as the gateway writes them, and what a search of them shows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape

from portal.tenants.models import MailDomain
from quarantine.causes import Cause
from quarantine.models import Event, Message, Recipient, State
from quarantine.platform.models import HourlyCount
from tests.kept_mail import add_recipient, keep
from tests.portal.browsing import browse, get_text

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
NO_TRACE = "No trace of it"


def search(who: str, at: str = "acme", **query: str) -> str:
    return unescape(get_text(browse(who, at=at).get("/trace/", query)))


def find(who: str, **query: str) -> set[str]:
    """The subjects of what was found."""
    return set(re.findall(r"\bS-[A-Z]+\b", search(who, **query)))


def refuse(address: str, *, cause: str = "reverse_dns", reply: str = "553 5.3.0 no PTR", **fields) -> Recipient:
    """A recipient refused at RCPT, as the gateway writes it."""
    message = keep(state=State.REFUSED, subject="", sender="ann@far.test", **fields)
    message.content.delete()
    Message.objects.filter(pk=message.pk).update(
        header_from="", size=0, sha256=None, ptr_status="none", ptr_milliseconds=23, tls="TLSv1.3",
        replies=[["MAIL FROM:<ann@far.test>", "250 2.1.0 Sender ok"], [f"RCPT TO:<{address}>", reply]],
    )  # fmt: skip
    row = add_recipient(
        message, address, state=State.REFUSED, action="refuse", category="policy", cause=cause, reply=reply
    )
    Event.objects.create(message=message, recipient=row, kind="refused", text=f"{reply} [{Cause(cause).label}]")
    return row


def split(*, seconds: bool = False) -> tuple[Recipient, Recipient]:
    """Mail that was taken for Carol, and of which Bob was refused at RCPT. Returns Bob's row and Carol's."""
    message = keep("carol@alpha.test", subject="S-SECRET", sender="ann@far.test")
    Message.objects.filter(pk=message.pk).update(
        message_id="<secret@far.test>", header_from="Secret Name <ann@else.test>",
        evidence={"content": {"from_address": "ann@else.test"}},
        replies=[
            [*pair, number + 0.25] if seconds else pair
            for number, pair in enumerate([
                ["MAIL FROM:<ann@far.test>", "250 2.1.0 Sender ok"],
                ["RCPT TO:<bob@alpha.test>", "553 5.3.0 no PTR"],
                ["RCPT TO:<carol@alpha.test>", "250 2.1.5 Recipient ok"],
                ["DATA", "354 End data"],
                ["end of data", "250 2.0.0 Ok: kept as X"],
            ])
        ],
    )  # fmt: skip
    verdict = {"state": State.REFUSED, "action": "refuse", "category": "policy", "score": 0}
    row = add_recipient(message, "bob@alpha.test", cause="reverse_dns", reply="553 5.3.0 no PTR", **verdict)
    Event.objects.create(message=message, recipient=row, kind="refused", text="553 5.3.0 no PTR")
    Event.objects.create(message=message, kind="sent_again", text="answered 250")
    return row, message.recipients.get(address="carol@alpha.test")


def count(hour: datetime, *, kind: str = "refused", cause: str = "reverse_dns", domain: str = "", number: int = 1,
          schema: str = "sp_acme", instance: str = "gw-1") -> None:  # fmt: skip
    domain_id = MailDomain.objects.get(name=domain).pk if domain else 0
    HourlyCount.objects.create(
        hour=hour, schema=schema, domain_id=domain_id, kind=kind, cause=cause, instance=instance, count=number
    )
