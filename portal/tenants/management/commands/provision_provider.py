"""manage.py provision_provider: make a service provider with its schema, hostname and brand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from portal.tenants.management.provisioning_command import ProvisioningCommand
from portal.tenants.provisioning import MAX_LOGO_BYTES, ProvisioningError, create_provider


class Command(ProvisioningCommand):
    help = "Make a service provider with its schema, the hostname of its portal, and its brand."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("slug", help="short name: a-z, 0-9 and _, beginning with a letter")
        parser.add_argument("--name", required=True, help="the name that people see")
        parser.add_argument("--hostname", required=True, help="where the portal is, such as quarantine.example.com")
        parser.add_argument("--colour", default="", help="such as #0b5fff")
        parser.add_argument("--logo", default="", metavar="FILE", help="a PNG or JPEG file")
        parser.add_argument("--support", default="", help="whom people ask: a phone number or address")

    def act(self, **options: Any) -> dict[str, Any]:
        provider = create_provider(
            slug=options["slug"],
            name=options["name"],
            hostname=options["hostname"],
            colour=options["colour"],
            logo=read_logo(options["logo"]),
            support=options["support"],
        )
        hostname = str(provider.get_primary_domain().domain)
        return {
            "provider": provider.slug,
            "name": provider.name,
            "schema": provider.schema_name,
            "hostname": hostname,
            "portal": settings.PORTAL_URL.format(hostname=hostname),
        }


def read_logo(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with Path(path).open("rb") as stream:
            return stream.read(MAX_LOGO_BYTES + 1)
    except OSError as error:
        raise ProvisioningError(f"The logo {path} cannot be read: {error.strerror}.") from None
