"""manage.py trace: the whole history of a message or connection, at whichever provider it is."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_tenants.utils import schema_context

from quarantine.management.telling import describe_unrouted, list_message_lines, make_message, make_unrouted, show
from quarantine.queries import find_trace, list_providers_of_trace, list_unrouted
from quarantine.trace_id import read_trace_id


class Command(BaseCommand):
    help = "Print every recipient, finding, event and reply of a trace id."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("trace_id", help="the 20 characters that were told with 250")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        told = collect(options["trace_id"])
        if not told["messages"] and not told["unrouted"]:
            raise CommandError(f"There is no trace {options['trace_id']!r}.")
        if options["json"]:
            self.stdout.write(json.dumps(told))
            return
        for message in told["messages"]:
            for line in list_message_lines(message):
                self.stdout.write(show(line))
        for refusal in told["unrouted"]:
            self.stdout.write(show(describe_unrouted(refusal)))


def collect(trace_id: str) -> dict[str, Any]:
    """All providers' messages of that trace, and the recipients that belonged to no provider."""
    messages = []
    for provider in list_providers_of_trace(trace_id):
        with schema_context(provider.schema_name):
            if message := find_trace(trace_id):
                messages.append(make_message(provider, message))
    unrouted = [make_unrouted(refusal) for refusal in list_unrouted(trace_id)]
    return {"trace_id": read_trace_id(trace_id), "messages": messages, "unrouted": unrouted}
