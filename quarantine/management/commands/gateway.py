"""`manage.py gateway`: one SMTP gateway process; several may share the port."""

from __future__ import annotations

import sys
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.settings.environment import Address, parse_address
from quarantine import metrics
from quarantine.collector import spare_what_stays
from quarantine.gateway.server import serve
from quarantine.store import DurabilityError

# A message being read in a thread must not keep the sessions waiting for Python's lock.
SWITCH_SECONDS = 0.001


class Command(BaseCommand):
    help = "Run one gateway process (SMTP in) until SIGTERM. Start several on the same address to use more cores."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--listen", default=str(settings.SMTP_ADDRESS), help="host:port (default: LAZARET_SMTP)")

    def handle(self, *args: Any, **options: Any) -> None:
        address: Address = parse_address("--listen", options["listen"])
        sys.setswitchinterval(SWITCH_SECONDS)
        tally = metrics.report("gateway")
        spare_what_stays()
        try:
            uvloop.run(serve(address.host, address.port, place=tally.name if tally else ""))
        except (DurabilityError, OSError) as error:
            raise CommandError(str(error)) from error
