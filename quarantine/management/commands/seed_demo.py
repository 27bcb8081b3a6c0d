"""manage.py seed_demo: the demo's providers, people and mail. `./run` calls it; it does nothing the second time."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.stack.demo.seed import seed
from portal.stack.process import StackError
from portal.tenants.provisioning import ProvisioningError


class Command(BaseCommand):
    help = "Fill the demo, through the real SMTP port. Everything must be running."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEMO:
            raise CommandError("The demo is off: set LAZARET_DEMO=1.")
        try:
            made = seed(lambda line: self.stdout.write(f"demo: {line}"))
        except (StackError, ProvisioningError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write("demo: ready" if made else "demo: there already")
