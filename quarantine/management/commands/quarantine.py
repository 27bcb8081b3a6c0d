"""manage.py quarantine: what is held for a mailbox."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_tenants.utils import schema_context

from quarantine.management.finding import get_mailbox, get_provider_of
from quarantine.management.locked import short_wait
from quarantine.management.telling import show, show_time
from quarantine.models import Recipient
from quarantine.queries import get_page, held, search

MAX_ROWS = 10_000


class Command(BaseCommand):
    help = "List the messages in a mailbox's quarantine, newest first."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("mailbox", help="its address, or an alias of it")
        parser.add_argument("--limit", type=int, default=50, metavar="N", help=f"1 to {MAX_ROWS}, default 50")
        parser.add_argument("--search", default="", metavar="TEXT", help="words in sender, From, subject or address")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["limit"] <= MAX_ROWS:
            raise CommandError(f"--limit must be from 1 to {MAX_ROWS}.")
        with short_wait(), schema_context(get_provider_of(options["mailbox"]).schema_name):
            mailbox = get_mailbox(options["mailbox"])
            rows = search(held(Recipient.objects.filter(mailbox=mailbox)), text=options["search"])
            page = get_page(rows, after=None, size=options["limit"])
        if options["json"]:
            messages = [make_row(row) for row in page.items]
            self.stdout.write(json.dumps({"mailbox": mailbox.address, "messages": messages, "more": bool(page.next)}))
            return
        for row in page.items:
            self.stdout.write(show(describe(row)))
        more = ", and more" if page.next else ""
        self.stdout.write(f"{len(page.items)} held for {mailbox.address}{more}.")


def make_row(row: Recipient) -> dict[str, Any]:
    return {
        "trace_id": row.message.trace_id,
        "received_at": row.received_at.isoformat(),
        "recipient": row.address,
        "sender": row.message.sender,
        "from": row.message.header_from,
        "subject": row.message.subject,
        "category": row.category,
        "score": row.score,
    }


def describe(row: Recipient) -> str:
    """One row for people: when, which, what, from whom, about what."""
    verdict = f"{row.category} {row.score:.1f}"
    sender = row.message.sender or "<>"
    return f"{show_time(row.received_at)}  {row.message.trace_id}  {verdict:<16}  {sender}  {row.message.subject}"
