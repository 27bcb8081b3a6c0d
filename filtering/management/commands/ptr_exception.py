"""manage.py ptr_exception: which mail servers are let in without reverse DNS for a time; let one in; end it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django_tenants.utils import schema_context

from filtering.evidence.text import make_safe
from filtering.policy.ptr_exceptions import DAYS, end, grant, is_in_force
from portal.tenants.management.provisioning_command import ProvisioningCommand
from portal.tenants.models import ServiceProvider
from portal.tenants.people.models import PtrException
from portal.tenants.provisioning import ProvisioningError, get_provider

MAX_ROWS = 1000


class Command(ProvisioningCommand):
    help = "Time-boxed exceptions from the reverse DNS rule: list them, grant one, end one."

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="command", required=True, metavar="list | grant | end")
        self._add(acts, "list", "the exceptions in force").add_argument(
            "--all", action="store_true", help=f"those past, too; the newest {MAX_ROWS}"
        )
        granting = self._add(acts, "grant", "let a mail server in from now on")
        granting.add_argument("network", help="an address, or a network of at most /24 (IPv6: /48)")
        whom = granting.add_mutually_exclusive_group(required=True)
        whom.add_argument("--domain", help="for mail to this domain of the provider")
        whom.add_argument("--all-domains", action="store_true", help="for mail to all of the provider's domains")
        granting.add_argument("--days", type=int, default=7, help=f"{', '.join(map(str, DAYS))}; default 7")
        granting.add_argument("--reason", default="", help="why; others will read it")
        ending = self._add(acts, "end", "end an exception at once")
        ending.add_argument("number", type=int, help="as the list has it")
        for changing in (granting, ending):
            changing.add_argument("--by", default="operator", help="who is written down as having done it")

    def _add(self, acts: Any, name: str, text: str) -> CommandParser:
        parser: CommandParser = acts.add_parser(name, help=text, description=f"{text.capitalize()}.")
        super().add_arguments(parser)
        parser.add_argument("provider", help="the provider's short name")
        return parser

    def act(self, **options: Any) -> dict[str, Any]:
        provider = get_provider(options["provider"])
        names = dict(provider.mail_domains.values_list("pk", "name"))
        with schema_context(provider.schema_name):
            if options["command"] == "grant":
                return tell(grant_one(provider, options), names)
            if options["command"] == "end":
                return tell(end_one(options["number"], by=options["by"]), names)
            rows = PtrException.objects.all() if options["all"] else PtrException.objects.filter(is_in_force())
            return {"exceptions": [tell(row, names) for row in reversed(rows.order_by("-pk")[:MAX_ROWS])]}

    def write(self, made: dict[str, Any], *, is_json: bool) -> None:
        if is_json or "exceptions" not in made:
            super().write(made, is_json=is_json)
            return
        for row in made["exceptions"]:
            self.stdout.write("  ".join(make_safe(str(value), limit=400) for value in row.values() if value))
        self.stdout.write(f"{len(made['exceptions'])} exceptions.")


def grant_one(provider: ServiceProvider, options: dict[str, Any]) -> PtrException:
    domain_id = None
    if not options["all_domains"]:
        domain = provider.mail_domains.filter(name=options["domain"].lower()).first()
        if domain is None:
            raise ProvisioningError(f"{provider.slug} has no domain {options['domain']!r}.")
        domain_id = domain.pk
    choices = {"days": options["days"], "reason": options["reason"], "by": options["by"]}
    return grant(options["network"], domain_id=domain_id, **choices)


def end_one(number: int, *, by: str) -> PtrException:
    rows = PtrException.objects.filter(pk=number)
    if not end(rows, by=by):
        raise ProvisioningError(f"Exception {number} is not in force.")
    return rows.get()


def tell(row: PtrException, names: dict[int, str]) -> dict[str, Any]:
    """One exception: which, for whom, until when, and who did what."""
    return {
        "number": row.pk,
        "network": row.network,
        "domain": "all domains" if row.domain_id is None else names.get(row.domain_id, "a removed domain"),
        "until": row.until.isoformat(timespec="seconds"),
        "reason": row.reason,
        "created_by": row.created_by,
        "created_at": row.created_at.isoformat(timespec="seconds"),
        "ended_by": row.ended_by,
        "ended_at": row.ended_at.isoformat(timespec="seconds") if row.ended_at else "",
    }
