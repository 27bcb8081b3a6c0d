"""Finding what a command names; CommandError says in a sentence what there is not."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from django.core.management.base import CommandError
from django.db.models import Q
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import Mailbox

NOT_FOUND, BAD_CALL = 1, 2  # exit codes
AGO = re.compile(r"(\d{1,5})([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def get_provider(slug: str) -> ServiceProvider:
    provider: ServiceProvider | None = ServiceProvider.objects.exclude(schema_name="public").filter(slug=slug).first()
    if provider is None:
        raise CommandError(f"There is no provider {slug!r}.", returncode=BAD_CALL)
    return provider


def read_time(text: str) -> datetime | None:
    """A day, a moment (UTC unless it says), or so long ago: 90m, 24h, 7d. None where nothing was typed."""
    if not text:
        return None
    if ago := AGO.fullmatch(text):
        return timezone.now() - timedelta(**{UNITS[ago.group(2)]: int(ago.group(1))})
    try:
        at, day = parse_datetime(text), parse_date(text)
    except ValueError:
        at = day = None
    at = at or (datetime(day.year, day.month, day.day, tzinfo=UTC) if day else None)
    if at is None:
        raise CommandError(f"{text!r} is no time: 2026-11-24, 2026-11-24T09:30, 90m, 24h, 7d.", returncode=BAD_CALL)
    return at if timezone.is_aware(at) else at.replace(tzinfo=UTC)


def get_provider_of(address: str) -> ServiceProvider:
    """The provider of the address's domain."""
    name = address.strip().rpartition("@")[2].lower()
    domain = MailDomain.objects.select_related("provider").filter(name=name).first()
    if domain is None:
        raise CommandError(f"No provider has the domain {name!r}.")
    return domain.provider


def get_mailbox(address: str) -> Mailbox:
    """The mailbox with that address or alias, in the schema we are in."""
    wanted = address.strip().lower()
    mailbox = Mailbox.objects.filter(Q(address=wanted) | Q(aliases__address=wanted)).first()
    if mailbox is None:
        raise CommandError(f"There is no mailbox {wanted!r}.")
    return mailbox
