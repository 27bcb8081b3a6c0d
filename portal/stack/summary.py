"""The table at the end of a start: what listens where, and who can sign in."""

from __future__ import annotations

import time
from collections.abc import Mapping

from portal.stack.configuration import Configuration
from portal.stack.console import Console
from portal.stack.demo.cast import PASSWORD, PROVIDERS
from portal.stack.health import get_own_host

ROLES = ("end user", "domain admin", "provider admin")


def show_summary(console: Console, configuration: Configuration, environment: Mapping[str, str]) -> None:
    console.say(f"\nLazaret is ready after {time.monotonic() - console.started_at:.0f} s.\n")
    console.table(_list_addresses(configuration, environment))
    console.say()
    if configuration.demo:
        console.say(f"  Sign in with the password {PASSWORD} as\n")
        console.table(_list_logins())
        console.say()
    else:
        console.say("  Add a provider: .venv/bin/python manage.py provision_provider --help\n")
    console.say("Ctrl-C stops everything.")


def _list_addresses(configuration: Configuration, environment: Mapping[str, str]) -> list[tuple[str, ...]]:
    web = f"{get_own_host(configuration.web)}:{configuration.web.port}"
    port = configuration.web.port
    rows: list[tuple[str, ...]] = []
    if configuration.demo:
        rows += [(provider.name, f"http://{provider.hostname}:{port}/") for provider in PROVIDERS]
        rows += [("customers' mail server", f"smtp://{environment['LAZARET_DEMO_SINK']}")]
        rows += [("what arrived there", f"http://{PROVIDERS[0].hostname}:{port}/demo/mail/")]
        rows += [("platform", f"http://{web}/")]  # elsewhere there is no such page
    rows += [
        ("mail in", f"smtp://{configuration.smtp}"),
        ("health", f"http://{web}/healthz"),
        ("PostgreSQL", _hide_password(environment["DATABASE_URL"])),
        ("broker", _hide_password(environment["BROKER_URL"])),
        ("data and logs", str(configuration.home)),
    ]
    return rows


def _list_logins() -> list[tuple[str, ...]]:
    """Of each provider one person a role: who to be first."""
    rows: list[tuple[str, ...]] = []
    for provider in PROVIDERS:
        first = {person.role: person for person in reversed(provider.people)}
        rows += [(provider.name, role, first[role].email) for role in ROLES if role in first]
    return rows


def _hide_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
