"""manage.py add_mailbox: make a mailbox in a provider's domain."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from portal.tenants.management.provisioning_command import ProvisioningCommand
from portal.tenants.provisioning import add_mailbox, get_provider, get_user, parse_mail_address


class Command(ProvisioningCommand):
    help = "Make a mailbox, with its owner and its aliases."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("provider", help="the provider's short name")
        parser.add_argument("address", help="such as someone@example.com")
        parser.add_argument("--owner", default="", metavar="EMAIL", help="the user whose mailbox it is")
        parser.add_argument("--alias", action="append", default=[], help="another address of it; may be repeated")

    def act(self, **options: Any) -> dict[str, Any]:
        provider = get_provider(options["provider"])
        owner = get_user(provider, options["owner"]) if options["owner"] else None
        mailbox = add_mailbox(provider, options["address"], owner=owner, aliases=options["alias"])
        return {
            "mailbox": mailbox.address,
            "provider": provider.slug,
            "owner": owner.email if owner else "",
            "aliases": list(dict.fromkeys(parse_mail_address(alias) for alias in options["alias"])),
        }
