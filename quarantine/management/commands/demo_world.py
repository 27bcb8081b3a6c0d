"""manage.py demo_world: the demo's customers' mail server and name server. `./run` starts it in demo mode."""

from __future__ import annotations

import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.stack.demo.world import run_world
from portal.stack.process import StackError


class Command(BaseCommand):
    help = "Run the demo's mail server and name server (for looking around only)."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEMO:
            raise CommandError("The demo is off: set LAZARET_DEMO=1.")
        try:
            asyncio.run(run_world())
        except StackError as error:
            raise CommandError(str(error)) from None
