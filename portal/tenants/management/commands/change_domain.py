"""manage.py change_domain: another mail server for a mail domain, or other recipients."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from portal.tenants.management.provisioning_command import RECIPIENTS_HELP, ProvisioningCommand, describe_domain
from portal.tenants.models import RecipientPolicy
from portal.tenants.provisioning import change_domain, get_provider


class Command(ProvisioningCommand):
    help = "Change a mail domain's server, or for which addresses its mail is taken; in force at once."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("provider", help="the provider's short name")
        parser.add_argument("domain", help="such as example.com")
        parser.add_argument("--server", default="", metavar="HOST:PORT", help="the customer's mail server")
        parser.add_argument("--recipients", default="", choices=RecipientPolicy.values, help=RECIPIENTS_HELP)

    def act(self, **options: Any) -> dict[str, Any]:
        provider = get_provider(options["provider"])
        chosen = {name: options[name] for name in ("server", "recipients")}
        return describe_domain(change_domain(provider, options["domain"], **chosen))
