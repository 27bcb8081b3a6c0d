"""`manage.py prepare`: tables as this version wants them. Quick when they are so already."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from portal.tenants.schemas import migrate_behind


class Command(BaseCommand):
    help = "Bring the tables of every schema up to date."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"prepared schemas_migrated={len(migrate_behind())}")
