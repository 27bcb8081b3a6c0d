"""The operator's search: over all providers, and over what reached none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain, ServiceProvider
from quarantine.management.finding import get_provider
from quarantine.management.telling import (
    Line,
    make_line,
    make_message,
    make_record,
    make_unrouted,
    make_unrouted_line,
    make_unrouted_record,
    show_time,
)
from quarantine.models import Recipient
from quarantine.queries import find_trace, list_next_tries, list_providers_of_trace, list_unrouted
from quarantine.tracing import find_everywhere, find_page, has_many_anywhere, list_unrouted_ways, list_ways
from quarantine.wanted import Wanted, describe

WALK_DAYS = 7  # how far back is looked for what no index answers, where nobody says since when


@dataclass(frozen=True, slots=True)
class Lines:
    """What was found, newest first, whether there is more, and what was looked for, in words.

    `reached` is how far back was looked, where that ended before everything was seen.
    """

    searched: str
    items: list[Line]
    more: bool
    reached: datetime | None = None


def find_lines(
    wanted: Wanted,
    *,
    limit: int,
    slug: str,
    only_unrouted: bool,
    whole: bool = False,
    left_out: Collection[str] = (),
) -> Lines:
    """What fits, at the provider of that name (empty: all but the schemas `left_out`, and none). An address that is
    nobody's in the envelope is looked for in the line From. `whole`: with all that is known of each.
    """
    slugs = {provider.schema_name: provider.slug for provider in _list_providers(slug, left_out)}
    which: dict[str, Any] = {"slugs": slugs, "with_unrouted": not slug, "only_unrouted": only_unrouted, "whole": whole}
    lines = _find(_bound(wanted, list(slugs)), limit, **which)
    if lines.items or only_unrouted or "@" not in wanted.party[1:]:
        return lines
    in_header = _find(_bound(wanted.in_header(), list(slugs)), limit, **which)
    return in_header if in_header.items else replace(lines, searched=f"{lines.searched}, nor: {in_header.searched}")


def _bound(wanted: Wanted, schemas: list[str]) -> Wanted:
    """With a beginning, where rows have to be looked through."""
    is_wide = has_many_anywhere(wanted.client, schemas)
    routed = list_ways(wanted, Recipient.objects.all(), MailDomain.objects.all(), is_wide=is_wide)
    if wanted.since or not any(way.narrow for way in (*routed, *list_unrouted_ways(wanted))):
        return wanted
    return replace(wanted, since=(wanted.until or timezone.now()) - timedelta(days=WALK_DAYS))


def _find(
    wanted: Wanted, limit: int, *, slugs: dict[str, str], with_unrouted: bool, only_unrouted: bool, whole: bool
) -> Lines:
    lines, reached = ([], None) if only_unrouted else _list_routed(wanted, limit + 1, slugs, whole=whole)
    if with_unrouted:
        make = make_unrouted_record if whole else make_unrouted_line
        found = find_page(list_unrouted_ways(wanted), size=limit + 1)
        lines += map(make, found.items)
        reached = max(filter(None, [reached, found.reached]), default=None)
    if reached:  # what is before it, elsewhere may not have been looked at yet
        lines = [line for line in lines if datetime.fromisoformat(line["at"]) >= reached]
    lines.sort(key=lambda line: str(line["at"]), reverse=True)
    more = len(lines) > limit  # then it is the limit that ended the list
    return Lines(describe(wanted, show_time) or "anything", lines[:limit], more, None if more else reached)


def _list_routed(
    wanted: Wanted, limit: int, slugs: dict[str, str], *, whole: bool
) -> tuple[list[Line], datetime | None]:
    by_schema: dict[str, list[int]] = {}
    hits, reached = find_everywhere(wanted, list(slugs), limit=limit)
    for _, schema, pk in hits:
        by_schema.setdefault(schema, []).append(pk)
    lines = []
    for schema, pks in by_schema.items():
        with schema_context(schema):
            rows = Recipient.objects.select_related("message").filter(pk__in=pks)
            if whole:
                rows = rows.prefetch_related("message__events")
                tries = list_next_tries(rows)
                lines += [make_record(slugs[schema], row, tries.get(row.pk)) for row in rows]
            else:
                lines += [make_line(slugs[schema], row) for row in rows]
    return lines, reached


def _list_providers(slug: str, left_out: Collection[str]) -> list[ServiceProvider]:
    all_but = ServiceProvider.objects.exclude(schema_name__in=["public", *left_out])
    return [get_provider(slug)] if slug else list(all_but)


def tell_trace(trace_id: str, *, slug: str, only_unrouted: bool, left_out: Collection[str] = ()) -> dict[str, Any]:
    """All providers' messages of that trace, and what of it belonged to no provider."""
    providers = [] if only_unrouted else list_providers_of_trace(trace_id, left_out)
    messages = []
    for provider in providers:
        with schema_context(provider.schema_name):
            if slug in {"", provider.slug} and (message := find_trace(trace_id)):
                messages.append(make_message(provider, message))
    unrouted = [] if slug else list_unrouted(trace_id)
    return {"trace_id": trace_id, "messages": messages, "unrouted": list(map(make_unrouted, unrouted))}
