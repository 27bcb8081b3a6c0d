"""Finding what a command names; CommandError says in a sentence what there is not."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db.models import Q

from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import Mailbox


def get_provider_of(address: str) -> ServiceProvider:
    """The provider of the address's domain."""
    name = address.strip().rpartition("@")[2].lower()
    domain = MailDomain.objects.select_related("provider").filter(name=name).first()
    if domain is None:
        raise CommandError(f"No provider has the domain {name!r}.")
    return domain.provider


def get_mailbox(address: str) -> Mailbox:
    """The mailbox with that address or alias, in the schema we are in."""
    wanted = address.strip().lower()
    mailbox = Mailbox.objects.filter(Q(address=wanted) | Q(aliases__address=wanted)).first()
    if mailbox is None:
        raise CommandError(f"There is no mailbox {wanted!r}.")
    return mailbox
