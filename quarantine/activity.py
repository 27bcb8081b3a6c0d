"""How much was accepted, held, refused, deferred and left unfinished, by cause, hour by hour, and of how much the
client's name could not be looked up: sums over HourlyCount.

Index: hourly_count_provider where a provider is named, else that of hourly_count_once, which begins with the hour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet, Sum

from quarantine.causes import name_cause
from quarantine.look_ups import ANSWERED, name_failure
from quarantine.outcomes import COUNTED
from quarantine.platform.models import HourlyCount
from quarantine.records import LOOK_UP, LOOK_UP_FAILED, REPEATED

KINDS: dict[str, str] = {outcome.value: str(outcome.label) for outcome in COUNTED} | {REPEATED: "Sent again"}
ENOUGH = 40  # look-ups, without which no share is reckoned
LOOK_UPS = Q(schema="", kind=LOOK_UP)


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
        return name_failure(self.cause) if self.kind in {LOOK_UP, LOOK_UP_FAILED} else name_cause(self.cause)


def of_provider(schema: str) -> Q:
    return Q(schema=schema) & ~Q(kind=LOOK_UP)


def of_domains(schema: str, domains: Iterable[int]) -> Q:
    return of_provider(schema) & Q(domain_id__in=list(domains))


def share_failures(look_ups: Iterable[Count]) -> list[str] | None:
    """For what look-ups failed, with the share of all in whole percent, the most frequent first; None of too few.

    A look-up belongs to no provider, so providers are told no numbers of them: from these each could reckon the others'
    mail. What they are told by numbers is their own mail for which one failed.
    """
    sums: Counter[str] = Counter()
    for count in look_ups:
        sums[count.cause] += count.number
    total = sums.total()
    if 0 < total < ENOUGH:
        return None
    failed = [(cause, 100 * number // total) for cause, number in sums.most_common() if cause not in ANSWERED]
    return [f"{name_failure(cause)} ({f'{share} %' if share else 'under 1 %'})" for cause, share in failed]


def count_by_hour(which: Q, *, since: datetime, until: datetime) -> list[Count]:
    """The sums of all instances in the hours that begin in [since, until), newest hour first. One query.

    A sum of zero is left out: what was counted was taken back.
    """
    rows: QuerySet[HourlyCount] = HourlyCount.objects.filter(which, hour__gte=since, hour__lt=until)
    sums = rows.values("hour", "schema", "kind", "cause").annotate(number=Sum("count")).exclude(number=0)
    return [Count(**row) for row in sums.order_by("-hour", "schema", "kind", "-number", "cause")]
