"""How much was taken and how much was not, by cause, hour by hour, each number leading to its mail; and of how much the
sending server's name could not be looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.formats import date_format
from django.utils.text import capfirst
from django.views.decorators.http import require_safe

from portal.tenants.database import get_schema
from portal.tenants.people.models import User
from portal.web.pages import choose_time_zone, render_page
from portal.web.permissions import admin_only, get_user, list_domains
from quarantine.activity import (
    ENOUGH,
    KINDS,
    LOOK_UPS,
    Count,
    count_by_hour,
    of_domains,
    of_provider,
    share_failures,
)
from quarantine.look_ups import FAILED as ALL_FAILED
from quarantine.look_ups import SEARCHED
from quarantine.outcomes import COUNTED, Outcome
from quarantine.platform.heartbeat import find_rule_off
from quarantine.records import LOOK_UP_FAILED
from quarantine.retention import COUNT_DAYS

HOUR = timedelta(hours=1)
DAYS = 7
Cause = tuple[str, str]  # kind, cause
LEAD_ON = {outcome.value for outcome in COUNTED}  # kinds for which mail can be searched
FAILED = {LOOK_UP_FAILED: "Why it could not be looked up"}
TAKEN: dict[Cause, str] = {  # without a cause, and always shown
    (Outcome.ACCEPTED.value, ""): "To be delivered",
    (Outcome.HELD.value, ""): "Held in quarantine",
}


@dataclass(frozen=True)
class Span:
    """A line of the table: an hour or a day."""

    since: datetime
    until: datetime
    label: str
    day: str = ""  # of a line that has hours of its own

    def __contains__(self, at: datetime) -> bool:
        return self.since <= at < self.until


@admin_only
@require_safe
def activity(request: HttpRequest) -> HttpResponse:
    user = get_user(request)
    with timezone.override(choose_time_zone(request, user)):
        day, by_day = read_day(request.GET.get("day", "")), request.GET.get("days") == str(DAYS)
        spans = list_days() if by_day else list_hours_of(day) if day else list_last_hours()
        since, until = spans[-1].since, spans[0].until
        counts = count_by_hour(choose(user), since=since, until=until)
        context: dict[str, Any] = {"day": day, "by_day": by_day, "kept": COUNT_DAYS, "enough": ENOUGH}
        context |= {"table": make_table(spans, counts, KINDS, TAKEN), "failed": make_failed(spans, counts)}
        context |= list_failures(spans, count_by_hour(LOOK_UPS, since=since, until=until))
    context["rule_off"] = find_rule_off()
    return render_page(request, "web/activity.html", context, page="activity")


def choose(user: User) -> Q:
    """What the user may count."""
    if user.is_provider_admin:
        return of_provider(get_schema())
    return of_domains(get_schema(), list_domains(user).values_list("pk", flat=True))


def list_failures(spans: list[Span], look_ups: list[Count]) -> dict[str, Any]:
    """The hours or days in which look-ups of reverse DNS failed, and for what; and those with too few to tell."""
    told = [(span.label, share_failures(one for one in look_ups if one.hour in span)) for span in spans]
    return {
        "failures": [(label, failures) for label, failures in told if failures],
        "too_few": [label for label, failures in told if failures is None],
    }


def read_day(text: str) -> date | None:
    """A day of which there may be counts."""
    try:
        day = parse_date(text)
    except ValueError:
        return None
    return day if day and abs(day - timezone.localdate()) <= timedelta(days=COUNT_DAYS) else None


def list_last_hours() -> list[Span]:
    """The hour that runs, and the 23 before it."""
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    return [make_hour(now - number * HOUR) for number in range(24)]


def list_hours_of(day: date) -> list[Span]:
    """The hours of a local day, the latest first: 23 to 25 of them."""
    since, until = begin(day), begin(day + timedelta(days=1))
    return [make_hour(until - (number + 1) * HOUR) for number in range(round((until - since) / HOUR))]


def make_hour(since: datetime) -> Span:
    return Span(since, since + HOUR, date_format(timezone.localtime(since), "D H:i"))


def list_days() -> list[Span]:
    """Today and the six days before."""
    today = timezone.localdate()
    days = [today - timedelta(days=number) for number in range(DAYS)]
    return [
        Span(begin(day), begin(day + timedelta(days=1)), date_format(day, "D j M"), day.isoformat()) for day in days
    ]


def begin(day: date) -> datetime:
    """When a local day begins, by the whole hours of UTC that are counted."""
    at = timezone.make_aware(datetime.combine(day, time.min))
    return at.astimezone(UTC).replace(minute=0)


def make_failed(spans: list[Span], counts: Iterable[Count]) -> dict[str, Any]:
    """The mail whose sending server's name could not be looked up; only of hours or days that have some."""
    table = make_table(spans, counts, FAILED, {})
    return table | {"lines": [line for line in table["lines"] if not line[-1]]}


def make_table(
    spans: list[Span], counts: Iterable[Count], kinds: dict[str, str], always: dict[Cause, str]
) -> dict[str, Any]:
    """Lines and columns of those kinds: only causes that occurred, the most frequent of each kind first; `always` there
    are those that are named.
    """
    sums: dict[Span, Counter[Cause]] = {span: Counter() for span in spans}
    labels: dict[Cause, str] = dict(always)
    for count in counts:
        key = (count.kind, count.cause)
        if count.kind not in kinds:
            continue
        labels.setdefault(key, capfirst(count.label) or "No reason noted")
        for span in spans:
            if count.hour in span:
                sums[span][key] += count.number
    totals: Counter[Cause] = sum(sums.values(), Counter())
    columns = sorted(labels, key=lambda key: (list(kinds).index(key[0]), -totals[key], key[1]))
    whole = Span(spans[-1].since, spans[0].until, "together")
    groups = Counter("Taken" if key in TAKEN else kinds[key[0]] for key in columns)
    return {
        "columns": [labels[key] for key in columns],
        "groups": list(groups.items()),
        "lines": [
            (span, [make_cell(span, key, sums[span][key], labels[key]) for key in columns], not +sums[span])
            for span in spans
        ],
        "totals": [make_cell(whole, key, totals[key], labels[key]) for key in columns],
        "is_empty": not totals,
    }


def make_cell(span: Span, key: Cause, number: int, label: str) -> dict[str, Any]:
    kind, cause = key
    query = {"since": span.since.isoformat(), "until": span.until.isoformat(), "outcome": kind, "cause": cause}
    if kind in FAILED:
        # Of a rare cause, which has no word, the number leads to all that could not be looked up.
        query |= {"outcome": "", "cause": "", "reverse_dns": cause if cause in SEARCHED else ALL_FAILED}
    leads_on = number and (kind in FAILED or kind in LEAD_ON)
    url = urlencode({name: value for name, value in query.items() if value}) if leads_on else ""
    return {"number": number, "label": name_cell(key, label), "query": url}


def name_cell(key: Cause, label: str) -> str:
    """What a number counts, where no head of a column says it."""
    if key[0] in FAILED:
        return label
    return KINDS[key[0]] if key in TAKEN else f"{KINDS[key[0]]}: {label[:1].lower()}{label[1:]}"
