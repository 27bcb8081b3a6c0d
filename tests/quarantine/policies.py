"""Recipient policies as an admin sets them, what RCPT is answered, and a customer's server that is asked."""

from __future__ import annotations

from typing import Any

from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine.models import Recipient, State
from tests.quarantine.gateways import RunningGateway
from tests.smtp_sink import Sink

RECIPIENT_OK = "250 2.1.5 Recipient ok"
UNKNOWN_MAILBOX = "550 5.1.1 No such mailbox here"
NOT_VERIFIED = "450 4.1.1 Mailbox cannot be verified at the moment, please try again later"
NOT_SANE = [
    '"a b"@alpha.test',
    "x%evil.test@alpha.test",
    "evil!x@alpha.test",
    "x" * 65 + "@alpha.test",
    "a..b@alpha.test",
]
MAILBOXES = ("postmaster", "new", "newer", "newest")


def choose(policy: str, *gateways: RunningGateway, domain: str = "alpha.test", **fields: object) -> None:
    """Set a domain's recipient policy, as its admin would; the gateways know it when this returns."""
    MailDomain.objects.filter(name=domain).update(recipient_policy=policy, **fields)

    def is_known(found: Any) -> bool:
        return found.domain.recipient_policy == policy and fields.get("server_port") in (None, found.domain.server_port)

    for gateway in gateways:
        gateway.wait_for_change(f"postmaster@{domain}", is_known)


def ask(gateway: RunningGateway, *recipients: str) -> list[str]:
    """The replies to RCPT, in one transaction."""
    client = gateway.open()
    client.ask("MAIL FROM:<ann@sender.test>")
    replies = client.talk(*(f"RCPT TO:<{recipient}>" for recipient in recipients))
    client.close()
    return replies


def list_mailboxes(schema: str = "sp_acme") -> list[str]:
    with schema_context(schema):
        return list(Mailbox.objects.exclude(owner__isnull=False).values_list("address", flat=True))


def list_rows() -> list[tuple[str, str | None]]:
    """Those that a message was taken for, and their mailboxes."""
    with schema_context("sp_acme"):
        taken = Recipient.objects.exclude(state__in=[State.UNFINISHED, State.REFUSED]).order_by("id")
        return list(taken.values_list("address", "mailbox__address"))


def answer_rcpt(line: str) -> str | None:
    """As a customer's server that knows a few mailboxes."""
    local = line.partition("<")[2].partition("@")[0]
    return None if local in MAILBOXES else "550 5.1.1 User unknown"


def list_asked(server: Sink) -> list[str]:
    """The mailboxes that the server was asked for, but for those that cannot exist."""
    asked = [line.partition("<")[2].rstrip(">") for line in server.commands if line.startswith("RCPT")]
    return [address for address in asked if not address.startswith("no-such-")]
