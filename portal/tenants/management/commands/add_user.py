"""manage.py add_user: make somebody who can sign in. A password is never an argument: others could read it."""

from __future__ import annotations

import getpass
import secrets
import sys
from typing import Any

from django.core.management.base import CommandParser

from portal.tenants.management.provisioning_command import ProvisioningCommand
from portal.tenants.provisioning import ProvisioningError, add_user, get_provider

MAX_PASSWORD_CHARACTERS = 1000


class Command(ProvisioningCommand):
    help = "Make a user. Without --password-stdin or --ask-password a password is made and printed once."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("provider", help="the provider's short name")
        parser.add_argument("email", help="the address to sign in with")
        parser.add_argument("--name", default="", help="the person's name")
        parser.add_argument("--provider-admin", action="store_true", help="looks after the whole provider")
        parser.add_argument("--domain", action="append", default=[], help="a domain to look after; may be repeated")
        source = parser.add_mutually_exclusive_group()
        source.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
        source.add_argument("--ask-password", action="store_true", help="ask for the password at the terminal")

    def act(self, **options: Any) -> dict[str, Any]:
        provider = get_provider(options["provider"])
        given = get_password(options)
        password = given or secrets.token_urlsafe(12)
        user = add_user(
            provider,
            options["email"],
            password=password,
            name=options["name"],
            provider_admin=options["provider_admin"],
            domains=options["domain"],
        )
        made = {
            "user": user.email,
            "provider": provider.slug,
            "provider_admin": user.is_provider_admin,
            "domains": [name.strip().lower() for name in options["domain"]],
        }
        return made if given else made | {"password": password}


def get_password(options: dict[str, Any]) -> str:
    """The password given at the terminal or on standard input; empty where one is to be made."""
    if options["password_stdin"]:
        given = sys.stdin.readline(MAX_PASSWORD_CHARACTERS).rstrip("\r\n")
    elif options["ask_password"]:
        given = getpass.getpass("Password: ")
        if given != getpass.getpass("Again: "):
            raise ProvisioningError("The two passwords differ.")
    else:
        return ""
    if not given:
        raise ProvisioningError("The password is empty.")
    return given
