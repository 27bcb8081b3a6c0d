"""What the provisioning commands share: one sentence and exit code 1 for bad input, JSON where a script wants it."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from portal.settings.environment import Address
from portal.tenants.models import MailDomain
from portal.tenants.provisioning import ProvisioningError

RECIPIENTS_HELP = (
    "mail is taken for known mailboxes only, for those that the mail server knows (callout: it is asked), or for anyone"
)


class ProvisioningCommand(BaseCommand):
    """Subclasses make something in `act` and return what they made."""

    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print what was made as JSON")

    def act(self, **options: Any) -> dict[str, Any]:
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            made = self.act(**options)
        except ProvisioningError as error:
            raise CommandError(str(error)) from None
        except OperationalError as error:
            raise CommandError(f"The database cannot be used: {str(error).splitlines()[0]}") from None
        self.write(made, is_json=options["json"])

    def write(self, made: dict[str, Any], *, is_json: bool) -> None:
        if is_json:
            self.stdout.write(json.dumps(made))
        else:
            self.stdout.write("\n".join(f"{name}: {describe(value)}" for name, value in made.items()))


def describe_domain(domain: MailDomain) -> dict[str, Any]:
    return {
        "domain": domain.name,
        "provider": domain.provider.slug,
        "server": str(Address(domain.server_host, domain.server_port)),
        "time_zone": domain.time_zone,
        "recipients": domain.recipient_policy,
    }


def describe(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
