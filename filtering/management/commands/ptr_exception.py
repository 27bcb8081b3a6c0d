"""manage.py ptr_exception: which mail servers are let in without reverse DNS for a time; let one in; end it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.core.management.base import CommandParser
from django.template.defaultfilters import pluralize
from django_tenants.utils import schema_context

from filtering.evidence.text import make_safe
from filtering.policy.ptr_exceptions import DAYS, end, grant, is_in_force, name_scopes
from portal.tenants.management.provisioning_command import ProvisioningCommand
from portal.tenants.models import ServiceProvider
from portal.tenants.people.models import PtrException
from portal.tenants.provisioning import ProvisioningError, get_provider

MAX_ROWS = 1000
COLUMNS = ("number", "network", "domain", "until", "created_at", "created_by", "ended_at", "ended_by", "reason")


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
        with schema_context(provider.schema_name):
            if options["command"] == "grant":
                return tell_all([grant_one(provider, options)])[0]
            if options["command"] == "end":
                return tell_all([end_one(options["number"], by=options["by"])])[0]
            rows = PtrException.objects.all() if options["all"] else PtrException.objects.filter(is_in_force())
            return {"exceptions": tell_all(reversed(rows.order_by("-pk")[:MAX_ROWS]))}

    def write(self, made: dict[str, Any], *, is_json: bool) -> None:
        if is_json or "exceptions" not in made:
            super().write(made, is_json=is_json)
            return
        for line in list_lines(made["exceptions"]):
            self.stdout.write(line)


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


def tell_all(rows: Iterable[PtrException]) -> list[dict[str, Any]]:
    """Each exception: which, for whom, until when, and who did what."""
    found = list(rows)
    scopes = name_scopes(found)
    return [tell(row, scopes[row.domain_id]) for row in found]


def tell(row: PtrException, scope: str) -> dict[str, Any]:
    return {
        "number": row.pk,
        "network": row.network,
        "domain": scope,
        "until": row.until.isoformat(timespec="seconds"),
        "reason": row.reason,
        "created_by": row.created_by,
        "created_at": row.created_at.isoformat(timespec="seconds"),
        "ended_by": row.ended_by,
        "ended_at": row.ended_at.isoformat(timespec="seconds") if row.ended_at else "",
    }


def list_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A table for people: a column for each thing that is known of one of them, with its name."""
    shown = [name for name in COLUMNS if any(row[name] for row in rows)]
    table = [[name.replace("_", " ") for name in shown]] if rows else []
    table += [[make_safe(str(row[name]), limit=400) for name in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
    yield f"{len(rows)} exception{pluralize(len(rows))}. Times are UTC."
