"""manage.py activity: what was accepted, held, refused, deferred and left unfinished, by cause, hour by hour."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Q
from django.utils import timezone

from portal.tenants.models import ServiceProvider
from quarantine.activity import Count, count_by_hour
from quarantine.management.finding import get_provider, read_time
from quarantine.management.telling import show_time

DAY = timedelta(days=1)


class Command(BaseCommand):
    help = "Print the counts of every hour, newest first, of all providers and of what reached none."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", default="24h", metavar="TIME", help="as in manage.py trace; default 24h")
        parser.add_argument("--until", default="", metavar="TIME", help="and before this")
        parser.add_argument("--provider", default="", metavar="SLUG", help="only of this one")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        until = read_time(options["until"]) or timezone.now() + DAY
        since = read_time(options["since"]) or until - DAY
        which = Q(schema=get_provider(options["provider"]).schema_name) if options["provider"] else Q()
        slugs = dict(ServiceProvider.objects.values_list("schema_name", "slug"))
        counts = count_by_hour(which, since=since, until=until)
        if options["json"]:
            self.stdout.write(json.dumps([make_count(count, slugs) for count in counts]))
            return
        for count in counts:
            self.stdout.write(describe(count, slugs))
        self.stdout.write(f"{len(counts)} counts since {show_time(since)}. Times are UTC.")


def make_count(count: Count, slugs: dict[str, str]) -> dict[str, Any]:
    told = {"hour": count.hour.isoformat(), "provider": slugs.get(count.schema, count.schema)}
    return told | {"kind": count.kind, "cause": count.cause, "count": count.number}


def describe(count: Count, slugs: dict[str, str]) -> str:
    where = slugs.get(count.schema, count.schema) or "-"
    what = f"{count.kind:<10}  {count.cause:<24}  {count.number:>8}  {count.label}".rstrip()
    return f"{count.hour:%Y-%m-%d %H:00}  {where:<10}  {what}"
