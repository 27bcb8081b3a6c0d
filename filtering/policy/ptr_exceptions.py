"""Time-boxed exceptions from the reverse DNS rule: granted and ended by people, never deleted.

The gateways hear of every change by NOTIFY, and look at the time of each message themselves.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone

from filtering.evidence.addresses import clean, is_public, read_address
from portal.tenants.models import MailDomain
from portal.tenants.people.models import PtrException
from portal.tenants.provisioning import ProvisioningError

DAYS = {1: "1 day", 7: "7 days", 30: "30 days", 90: "90 days"}  # for how long one is granted
WIDEST = {4: 24, 6: 48}  # bits of the largest network
MAX_IN_FORCE = 200  # of one domain, or for the whole provider: every gateway has them in memory
MAX_REASON = 300

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_in_force() -> Q:
    """The condition of those that count now."""
    return Q(until__gt=timezone.now(), ended_at=None)


def parse_network(text: str) -> str:
    """An address or a small network as it is kept. Raises ProvisioningError with a sentence that says what is wrong."""
    network = _read_network(text)
    bits = WIDEST[network.version]
    if network.prefixlen < bits:
        kind = f"an IPv{network.version} network of /{bits}"
        raise ProvisioningError(f"{network} is too large: at most {kind} can be excepted.")
    if not is_public(network.network_address):
        raise ProvisioningError(f"{_shorten(network)} is no public address: the rule never asks about it.")
    return _shorten(network)


def _read_network(text: str) -> Network:
    base, slash, bits = clean(text).partition("/")
    address = read_address(base)
    if address is None:
        raise ProvisioningError("Give an address such as 192.0.2.25, or a network such as 192.0.2.0/24.")
    if not slash:
        return ipaddress.ip_network(address)
    try:
        network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    except ValueError:
        raise ProvisioningError(f"/{bits} is no size of a network: write it as in 192.0.2.0/24.") from None
    if network.network_address != address:
        raise ProvisioningError(f"No network begins at {address}/{bits}. Did you mean {network}, or {address} alone?")
    return network


def _shorten(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def grant(network: str, *, domain_id: int | None, days: int, reason: str, by: str) -> PtrException:
    """Except the clients of a network from now on, for a domain, or (None) for the whole provider we are in.

    Raises ProvisioningError where it cannot be.
    """
    wanted, why = parse_network(network), " ".join(reason.replace("\0", "").split())
    if days not in DAYS:
        raise ProvisioningError(f"An exception lasts {', '.join(map(str, DAYS))} days, not {days}.")
    if not why:
        raise ProvisioningError("Give a reason: others will ask why.")
    if len(why) > MAX_REASON:
        raise ProvisioningError(f"The reason has {len(why)} characters; at most {MAX_REASON} are kept.")
    alike = PtrException.objects.filter(is_in_force(), domain_id=domain_id)
    if same := alike.filter(network=wanted).first():
        past = f"until {same.until:%Y-%m-%d %H:%M} UTC"
        raise ProvisioningError(f"{wanted} is excepted already, {past}. End that exception first to change it.")
    if alike.count() >= MAX_IN_FORCE:
        raise ProvisioningError(f"There are {MAX_IN_FORCE} exceptions in force already. End some of them first.")
    until = timezone.now() + timedelta(days=days)
    return PtrException.objects.create(network=wanted, domain_id=domain_id, until=until, reason=why, created_by=by)


def end(rows: QuerySet[PtrException], *, by: str) -> int:
    """End those of the rows that are in force; how many these were."""
    return rows.filter(is_in_force()).update(ended_by=by, ended_at=timezone.now())


def name_scopes(rows: Iterable[PtrException]) -> dict[int | None, str]:
    """For whom the rows hold, in words, by their `domain_id`: asks for the domains that they name and for no others."""
    wanted = {row.domain_id for row in rows}
    named = [pk for pk in wanted if pk is not None]
    names = dict(MailDomain.objects.filter(pk__in=named).values_list("pk", "name"))
    return {pk: "all domains" if pk is None else names.get(pk, "a removed domain") for pk in wanted}
