"""How much was accepted, held, refused, deferred and left unfinished, by cause, hour by hour: sums over HourlyCount.

Index: hourly_count_provider where a provider is named, else that of hourly_count_once, which begins with the hour.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet, Sum

from quarantine.causes import name_cause
from quarantine.outcomes import COUNTED
from quarantine.platform.models import HourlyCount

DNS = "dns"
KINDS: dict[str, str] = {outcome.value: str(outcome.label) for outcome in COUNTED}
FAILING_SHARE = 0.05
ENOUGH = 40  # look-ups in an hour, without which no share is reckoned
DNS_ANSWERED = ("ok", "none", "mismatch", "malformed", "skipped")  # the answer was had, whatever it was
DNS_WORDS = {
    "ok": "a name that leads back",
    "none": "there is no name",
    "mismatch": "the name does not lead back",
    "malformed": "not a valid name",
    "skipped": "not asked",
    "servfail": "the name server failed",
    "refused": "the name server refused",
    "timeout": "no answer in time",
    "busy": "too many look-ups at once",
    "stale": "no new answer: an older one was used",
    "unconfirmed_absence": "a name server's “there is none” was not believed",
}


@dataclass(frozen=True, slots=True)
class Count:
    """How often in an hour; `schema` is empty for what reached no provider, and for look-ups."""

    hour: datetime
    schema: str
    kind: str
    cause: str
    number: int

    @property
    def label(self) -> str:
        """The cause in words."""
        return name_failure(self.cause) if self.kind == DNS else name_cause(self.cause)


def name_failure(cause: str) -> str:
    return DNS_WORDS.get(cause, cause.replace("_", " "))


def of_provider(schema: str) -> Q:
    return Q(schema=schema) & ~Q(kind=DNS)


def of_domains(schema: str, domains: Iterable[int]) -> Q:
    return of_provider(schema) & Q(domain_id__in=list(domains))


def find_troubled_hours(*, since: datetime, until: datetime) -> list[datetime]:
    """The hours, newest first, in which look-ups did not work: more than a twentieth of them failed. One query.

    A look-up belongs to no provider, so providers are told no numbers: from these each could reckon the others' mail.
    """
    look_ups = HourlyCount.objects.filter(schema="", kind=DNS, hour__gte=since, hour__lt=until)
    failed = Sum("count", filter=~Q(cause__in=DNS_ANSWERED), default=0)
    sums = look_ups.values("hour").annotate(all=Sum("count"), failed=failed).order_by("-hour")
    return [row["hour"] for row in sums if row["all"] >= ENOUGH and row["failed"] > FAILING_SHARE * row["all"]]


def count_by_hour(which: Q, *, since: datetime, until: datetime) -> list[Count]:
    """The sums of all instances in the hours that begin in [since, until), newest hour first. One query."""
    rows: QuerySet[HourlyCount] = HourlyCount.objects.filter(which, hour__gte=since, hour__lt=until)
    sums = rows.values("hour", "schema", "kind", "cause").annotate(number=Sum("count"))
    return [Count(**row) for row in sums.order_by("-hour", "schema", "kind", "-number", "cause")]
