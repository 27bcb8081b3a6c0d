"""A report as a mail: words, HTML and plain text in the provider's brand, and the octets that are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.charset import BASE64, Charset
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import format_datetime, formataddr
from functools import cached_property
from uuid import uuid4
from zoneinfo import ZoneInfo

from django.template.loader import get_template

from portal.tenants.colours import choose_text, format_colour, make_readable, parse_colour
from portal.tenants.models import ServiceProvider
from portal.tenants.urls import get_hostname, make_portal_url
from quarantine.models import Category, Recipient
from reports import wording

WIRE = compat32.clone(linesep="\r\n")  # takes a third of the time of the newer policies
ENCODED = Charset("utf-8")
ENCODED.body_encoding = BASE64  # no line of ours is ever too long, and no client trips over a soft break in a link
# At the provider's own hostname: the provider can publish SPF for it, and no customer's server takes it for
# somebody who forges the customer's own domain.
LOCAL_PART = "quarantine"
SCORED = {Category.CLEAN, Category.SPAM, Category.SURE_SPAM}


@dataclass(frozen=True)
class Brand:
    """What all reports of one provider share."""

    provider: ServiceProvider
    hostname: str
    portal_url: str

    @cached_property
    def name(self) -> str:
        return wording.clean(self.provider.name, 100)

    @cached_property
    def support(self) -> str:
        return wording.clean(self.provider.support, 200)

    @cached_property
    def ink(self) -> str:
        """Black or white, whichever is better read on the provider's colour."""
        return format_colour(choose_text(parse_colour(self.provider.colour)))

    @cached_property
    def link_colour(self) -> str:
        """The provider's colour, as dark as it must be to be read on white."""
        return format_colour(make_readable(parse_colour(self.provider.colour), (255, 255, 255)))

    @cached_property
    def logo_cid(self) -> str:
        return f"logo@{self.hostname}" if self.provider.logo and self.provider.logo_type else ""


@dataclass(frozen=True)
class Line:
    """One message in the report, in words. `url` is empty where the recipient may not release it."""

    name: str
    address: str
    subject: str
    when: str
    verdict: str
    to: str  # the address it was sent to, where that is an alias
    url: str
    code: str


@dataclass(frozen=True)
class Report:
    """All that one mail says."""

    brand: Brand
    address: str
    time_zone: str
    since: datetime
    until: datetime
    total: int
    lines: Sequence[Line] = field(default_factory=list)
    on_demand: bool = False

    @property
    def more(self) -> int:
        return self.total - len(self.lines)

    @property
    def title(self) -> str:
        if not self.total:
            return "Nothing was held for you"
        return "1 message is held for you" if self.total == 1 else f"{self.total} messages are held for you"

    @property
    def subject(self) -> str:
        if not self.total:
            return f"{self.brand.name}: nothing in your quarantine report"
        return f"{self.brand.name}: {self.total} {'message' if self.total == 1 else 'messages'} in quarantine"

    @property
    def period(self) -> str:
        zone = ZoneInfo(self.time_zone)
        since, until = (f"{at.astimezone(zone):%a %-d %b %Y, %H:%M}" for at in (self.since, self.until))
        return f"{since} to {until}"


def get_brand(provider: ServiceProvider) -> Brand:
    hostname = get_hostname(provider)
    return Brand(provider, hostname, make_portal_url(hostname))


def describe(recipient: Recipient, *, mailbox: str, time_zone: str, url: str, code: str) -> Line:
    """An item in words that are safe to print."""
    message = recipient.message
    name, address = wording.read_sender(message.header_from, message.sender)
    category = Category(recipient.category)
    verdict = f"{category.label}, score {recipient.score:.1f}" if category in SCORED else str(category.label)
    return Line(
        name=name,
        address=address,
        subject=wording.read_subject(message.subject),
        when=f"{recipient.received_at.astimezone(ZoneInfo(time_zone)):%a %-d %b, %H:%M}",
        verdict=verdict,
        to="" if recipient.address.lower() == mailbox else wording.show_address(recipient.address),
        url=url,
        code=f"{code[:3]} {code[3:]}" if url else "",
    )


def make_mail(report: Report, *, at: datetime) -> bytes:
    """The report as octets to be sent: CRLF, no line over 998, ASCII but for an address that is not (RFC 6532)."""
    brand, context = report.brand, {"report": report, "brand": report.brand}
    mail = MIMEMultipart("alternative", policy=WIRE)
    mail["From"] = formataddr((f"{brand.name} quarantine", f"{LOCAL_PART}@{brand.hostname}"))
    mail["To"] = report.address.encode().decode("ascii", "surrogateescape")
    mail["Subject"] = report.subject
    mail["Date"] = format_datetime(at)
    mail["Message-ID"] = f"<{uuid4().hex}@{brand.hostname}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's vacation notice answers it
    mail["X-Auto-Response-Suppress"] = "All"  # the same for Exchange
    mail.attach(make_text(get_template("mail/digest.txt").render(context), "plain"))
    html = make_text(get_template("mail/digest.html").render(context), "html")
    mail.attach(add_logo(html, brand) if brand.logo_cid else html)
    return mail.as_bytes()


def make_text(text: str, subtype: str) -> MIMEText:
    return MIMEText(text, subtype, ENCODED)  # type: ignore[arg-type]  # a Charset is what it takes


def add_logo(html: MIMEText, brand: Brand) -> MIMEMultipart:
    """The page with its picture beside it (RFC 2387), so that nothing is fetched from anywhere."""
    logo = MIMEImage(bytes(brand.provider.logo or b""), brand.provider.logo_type.partition("/")[2])
    logo["Content-ID"] = f"<{brand.logo_cid}>"
    logo["Content-Disposition"] = "inline"
    related = MIMEMultipart("related", type="text/html")
    related.attach(html)
    related.attach(logo)
    return related
