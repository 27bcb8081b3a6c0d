"""Every list of mail that people see, and how one message is found. Each names the index it reads.

People see a message through its recipient rows; `visible_to` is the only way from a person to rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.db.models import Max, Q, QuerySet, Sum
from django.utils import timezone
from psycopg import sql

from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import User
from quarantine.causes import Cause
from quarantine.content import ContentGoneError, restore
from quarantine.models import Content, Message, Recipient, State
from quarantine.outcomes import WAS_READ
from quarantine.platform.models import DeliveryJob, HourlyCount, Unrouted
from quarantine.trace_id import read_trace_id

NEWEST_FIRST = ("-received_at", "-id")
MAX_WORDS = 8
MAX_WORD_LENGTH = 100
SCHEMAS_A_QUERY = 200
WAITING = {State.DELIVERING, State.DEFERRED, State.RELEASING}  # states in which there is a delivery to be made


def visible_to(user: User) -> QuerySet[Recipient]:
    """The recipient rows that `user` may see and act on, in the schema we are in; messages come along.

    An end user: those of their own mailboxes. A domain admin: also those of their domains. A provider admin: all.
    """
    rows = Recipient.objects.select_related("message")
    if not user.is_active:
        return rows.none()
    if user.is_provider_admin:
        return rows  # index recipient_listed_all, recipient_all
    domains = list(user.administered.values_list("domain_id", flat=True))
    own = user.mailboxes.exclude(domain_id__in=domains).values_list("pk", flat=True)
    return rows.filter(_any_of(domains, list(own)))


def _any_of(domains: list[int], mailboxes: list[int]) -> Q:
    """Few plain ids, so that one mailbox or one domain reads its own partial index in order."""
    if domains and mailboxes:
        return Q(domain_id__in=domains) | Q(mailbox_id__in=mailboxes)
    if domains:
        return Q(domain_id__in=domains)  # index recipient_listed_domain, recipient_domain
    return Q(mailbox_id__in=mailboxes)  # index recipient_listed_mailbox, recipient_mailbox; no mailbox: no row


def held(recipients: QuerySet[Recipient]) -> QuerySet[Recipient]:
    """Those in quarantine. (What the customer's server refused has the state `held`: see `refused_by_server`.)"""
    return recipients.filter(listed=State.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Unverified:
    """How many recipients a domain's mail server gave no clear answer about, and the last hour in which it was so."""

    number: int
    hour: datetime | None


def count_unverified(domain: MailDomain) -> Unverified:
    """Those of the past 24 hours. Index: hourly_count_provider."""
    since = timezone.now() - timedelta(hours=24)
    counts = HourlyCount.objects.filter(hour__gt=since, schema=domain.provider.schema_name, domain_id=domain.pk)
    found = counts.filter(cause=Cause.UNVERIFIED).aggregate(number=Sum("count", default=0), hour=Max("hour"))
    return Unverified(**found)


def refused_by_server(recipients: QuerySet[Recipient]) -> QuerySet[Recipient]:
    """Those that the customer's server refused for good, and that somebody must look at."""
    return recipients.filter(listed=State.HELD)


def search(
    recipients: QuerySet[Recipient],
    *,
    text: str = "",
    category: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> QuerySet[Recipient]:
    """Narrow `recipients`: every word of `text` in the sender, From, subject or address; received in [since, until)."""
    for word in text.replace("\0", " ").split()[:MAX_WORDS]:
        recipients = recipients.filter(_mentions(word[:MAX_WORD_LENGTH]))
    if category:
        recipients = recipients.filter(category=category)
    if since:
        recipients = recipients.filter(received_at__gte=since)
    if until:
        recipients = recipients.filter(received_at__lt=until)
    return recipients


def _mentions(word: str) -> Q:
    return (
        Q(message__sender__icontains=word)
        | WAS_READ & Q(message__header_from__icontains=word)
        | WAS_READ & Q(message__subject__icontains=word)
        | Q(address__icontains=word)
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, newest first, and the place after the last of them (None: there are no more)."""

    items: list[Recipient]
    next: str | None


def get_page(recipients: QuerySet[Recipient], *, after: str | None, size: int = 50) -> Page:
    """The next `size` rows after the place `after` (None, or no place at all: from the newest).

    One query, whatever the length of the list: the place is a key (received_at, id), never an offset.
    """
    recipients = start_after(recipients, read_place(after))
    items = list(recipients.select_related("message").order_by(*NEWEST_FIRST)[: size + 1])
    more = len(items) > size
    return Page(items=items[:size], next=make_place(items[size - 1]) if more else None)


def start_after(recipients: QuerySet[Recipient], place: tuple[datetime, int] | None) -> QuerySet[Recipient]:
    """What comes after that place, the newest first; everything where there is none."""
    if place is None:
        return recipients
    at, pk = place
    # received_at <= at bounds the index scan; the rest sorts out rows of the same microsecond.
    return recipients.filter(Q(received_at__lt=at) | Q(pk__lt=pk), received_at__lte=at)


def make_place(recipient: Recipient) -> str:
    """Where a row stands in a list."""
    return write_place(recipient.received_at, recipient.pk)


def write_place(at: datetime, pk: int) -> str:
    """A place as it may stand in an address: microseconds since 1970, and the id."""
    since_1970 = at - datetime(1970, 1, 1, tzinfo=UTC)
    return f"{since_1970.days * 86_400_000_000 + since_1970.seconds * 1_000_000 + since_1970.microseconds}-{pk}"


def read_place(text: str | None) -> tuple[datetime, int] | None:
    """The inverse of `write_place`; None for anything else, so that a broken address shows the newest rows."""
    micros, _, pk = (text or "").partition("-")
    if (
        not (micros.isascii() and micros.isdigit() and pk.isascii() and pk.isdigit())
        or len(micros) > 17
        or len(pk) > 18
    ):
        return None
    seconds, rest = divmod(int(micros), 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest), int(pk)


def count_bounded(recipients: QuerySet[Recipient], limit: int = 1000) -> int:
    """How many rows, counted up to `limit`: that number means "so many, or more"."""
    return recipients.order_by()[:limit].count()


def read_raw(message: Message) -> bytes:
    """The octets of `message` as they were received, checked by SHA-256.

    Raises ContentGoneError when nobody needed them any more, ContentDamagedError when they are not what was received.
    """
    content = Content.objects.filter(message_id=message.pk).first()
    if content is None:
        raise ContentGoneError(message.trace_id)
    sha256 = bytes(message.sha256 or b"")
    return restore(content.codec, bytes(content.data), size=message.size, sha256=sha256)


def list_next_tries(rows: Iterable[Recipient]) -> dict[int, DeliveryJob]:
    """By recipient row of the schema we are in, its delivery that is still to be made; one query at most."""
    waiting = [row.pk for row in rows if row.state in WAITING]
    jobs = DeliveryJob.objects.filter(schema=get_schema(), recipient_id__in=waiting)  # unique index delivery_job_once
    return {job.recipient_id: job for job in jobs} if waiting else {}


def find_trace(trace_id: str) -> Message | None:
    """The message of that trace in the schema we are in, with its recipients and events; three queries."""
    messages = Message.objects.filter(trace_id=read_trace_id(trace_id))  # unique index of trace_id
    return messages.prefetch_related("recipients", "events").first()


def list_providers_of_trace(trace_id: str, left_out: Collection[str] = ()) -> list[ServiceProvider]:
    """The providers that have a message of that trace, but for the schemas `left_out`: one query for 200 providers."""
    providers = list(ServiceProvider.objects.exclude(schema_name__in=["public", *left_out]).order_by("slug"))
    found: set[str] = set()
    for start in range(0, len(providers), SCHEMAS_A_QUERY):
        schemas = [provider.schema_name for provider in providers[start : start + SCHEMAS_A_QUERY]]
        found.update(_list_schemas_of_trace(read_trace_id(trace_id), schemas))
    return [provider for provider in providers if provider.schema_name in found]


def _list_schemas_of_trace(trace_id: str, schemas: list[str]) -> list[str]:
    one = sql.SQL("SELECT {name} FROM {table} WHERE trace_id = %s")
    parts = [one.format(name=schema, table=sql.Identifier(schema, "quarantine_message")) for schema in schemas]
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(" UNION ALL ").join(parts), [trace_id] * len(schemas))
        return [row[0] for row in cursor.fetchall()]


def list_unrouted(trace_id: str) -> QuerySet[Unrouted]:
    """Recipients of that trace that belonged to no provider."""
    return Unrouted.objects.filter(trace_id=read_trace_id(trace_id)).order_by("at", "id")
