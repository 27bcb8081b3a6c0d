"""manage.py courier: deliver mail to the customers' servers."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand

from quarantine import metrics
from quarantine.collector import spare_what_stays
from quarantine.delivery.channel import Manner
from quarantine.delivery.courier import run_courier


class Command(BaseCommand):
    help = "Deliver clean mail, releases and digests to the customers' servers, until stopped."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        metrics.report("courier")
        spare_what_stays()
        manner = Manner(hostname=settings.SMTP_HOSTNAME)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_courier(settings.HOME / "courier", manner))
