"""manage.py add_domain: give a provider a customer's mail domain."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from portal.tenants.management.provisioning_command import RECIPIENTS_HELP, ProvisioningCommand, describe_domain
from portal.tenants.models import RecipientPolicy
from portal.tenants.provisioning import add_domain, get_provider


class Command(ProvisioningCommand):
    help = "Give a provider a mail domain, with the mail server that takes its mail."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("provider", help="the provider's short name")
        parser.add_argument("domain", help="such as example.com")
        parser.add_argument("--server", required=True, metavar="HOST:PORT", help="the customer's mail server")
        parser.add_argument(
            "--recipients",
            choices=RecipientPolicy.values,
            default=RecipientPolicy.KNOWN.value,
            help=f"{RECIPIENTS_HELP} (default: known)",
        )
        parser.add_argument("--time-zone", default="UTC", help="such as Europe/Berlin (default: UTC)")

    def act(self, **options: Any) -> dict[str, Any]:
        provider = get_provider(options["provider"])
        chosen = {name: options[name] for name in ("server", "time_zone", "recipients")}
        return describe_domain(add_domain(provider, options["domain"], **chosen))
