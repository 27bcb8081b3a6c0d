"""manage.py release: send a held message on to its recipient."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_tenants.utils import schema_context

from quarantine.management.finding import get_provider_of
from quarantine.models import Recipient, State
from quarantine.release import RELEASABLE, release
from quarantine.trace_id import read_trace_id


class Command(BaseCommand):
    help = "Release a message for one recipient; it is released when the recipient's server answered 250."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("trace_id")
        parser.add_argument("recipient", help="the recipient's address")
        parser.add_argument("--by", default="operator", help="who is written down as having released it")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        trace_id, address = read_trace_id(options["trace_id"]), options["recipient"].strip()
        with schema_context(get_provider_of(address).schema_name):
            rows = Recipient.objects.filter(message__trace_id=trace_id, address__iexact=address)
            if not rows.exists():
                raise CommandError(f"There is no message {trace_id!r} for {address!r}.")
            count = release(rows, by=options["by"])
            state = rows[0].state
        if not count:
            raise CommandError(explain(state))
        if options["json"]:
            self.stdout.write(
                json.dumps({"trace_id": trace_id, "recipient": address, "released": count, "state": state})
            )
            return
        self.stdout.write(f"{trace_id} is on its way to {address}.")


def explain(state: str) -> str:
    """Why nothing was released."""
    if state in RELEASABLE:
        return "Its content is gone."
    return f"It is not in quarantine, but: {State(state).label.lower()}."
