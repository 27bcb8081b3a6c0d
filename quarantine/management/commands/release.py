"""manage.py release: send a held message on to its recipient."""

from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_tenants.utils import schema_context

from quarantine.management.finding import get_provider_of
from quarantine.management.locked import short_wait
from quarantine.models import Recipient, State
from quarantine.release import RELEASABLE, release
from quarantine.trace_id import read_trace_id


class Command(BaseCommand):
    help = "Release a message for one recipient, and say what the recipient's mail server answered."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("trace_id")
        parser.add_argument("recipient", help="the recipient's address")
        parser.add_argument("--by", default="operator", help="who is written down as having released it")
        parser.add_argument(
            "--wait", type=float, default=10, metavar="SECONDS", help="for the server's answer; 0: not at all"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        trace_id, address = read_trace_id(options["trace_id"]), options["recipient"].strip()
        with schema_context(get_provider_of(address).schema_name):
            with short_wait():
                rows = Recipient.objects.filter(message__trace_id=trace_id, address__iexact=address)
                if not rows.exists():
                    raise CommandError(f"There is no message {options['trace_id']!r} for {address!r}.")
                if not release(rows, by=options["by"]):
                    raise CommandError(explain(rows[0].state))
                pk = rows[0].pk
            row = wait_for_answer(pk, options["wait"])
        if options["json"]:
            told = {"trace_id": trace_id, "recipient": address, "state": row.state, "reply": row.reply}
            self.stdout.write(json.dumps(told | {"released": row.state == State.RELEASED}))
        elif row.state != State.HELD:
            self.stdout.write(describe(row, trace_id))
        if row.state == State.HELD:
            raise CommandError(f"The recipient's mail server refused {trace_id}: {row.reply}")


def wait_for_answer(pk: int, seconds: float) -> Recipient:
    """The row when the courier has told how it went, or as it is when that takes longer."""
    deadline = time.monotonic() + seconds
    while True:
        row = Recipient.objects.get(pk=pk)
        if row.state != State.RELEASING or row.reply or time.monotonic() >= deadline:
            return row
        time.sleep(0.1)


def describe(row: Recipient, trace_id: str) -> str:
    if row.state == State.RELEASED:
        return f"{trace_id} is released to {row.address}: {row.reply}"
    later = f"; it will be tried again after: {row.reply}" if row.reply else "; there is no answer yet"
    return f"{trace_id} is on its way to {row.address}{later}"


def explain(state: str) -> str:
    """Why nothing was released."""
    if state in RELEASABLE:
        return "Its content is gone."
    return f"It is not in quarantine, but: {State(state).label.lower()}."
