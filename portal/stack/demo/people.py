"""Makes the demo's providers, domains, people and rules; what is there already is left as it is."""

from __future__ import annotations

from django_tenants.utils import schema_context

from portal.stack.demo.cast import PASSWORD, Domain, Person, Provider, Rule
from portal.stack.demo.logos import draw_logo
from portal.stack.demo.world import find_sink
from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import Mailbox, SenderRule, User
from portal.tenants.provisioning import add_domain, add_mailbox, add_user, create_provider


def make_provider(wanted: Provider) -> ServiceProvider:
    """The provider with everything that belongs to it."""
    provider = ServiceProvider.objects.filter(slug=wanted.slug).first() or create_provider(
        slug=wanted.slug,
        name=wanted.name,
        hostname=wanted.hostname,
        colour=wanted.colour,
        logo=draw_logo(wanted.slug, wanted.colour),
        support=wanted.support,
    )
    make_person(provider, wanted.admin, domain="")
    for domain in wanted.domains:
        make_domain(provider, domain)
    for rule in wanted.rules:
        make_rule(provider, rule)
    return provider


def make_domain(provider: ServiceProvider, wanted: Domain) -> None:
    if not MailDomain.objects.filter(name=wanted.name).exists():
        made = add_domain(provider, wanted.name, server=str(find_sink()), time_zone=wanted.time_zone)
        MailDomain.objects.filter(pk=made.pk).update(ptr_action=wanted.ptr_action, spam_action=wanted.spam_action)
    for person in wanted.people:
        make_person(provider, person, domain=wanted.name)


def make_person(provider: ServiceProvider, wanted: Person, *, domain: str) -> None:
    """The user, and the mailbox where the address is in one of the provider's domains."""
    with schema_context(provider.schema_name):
        user = User.objects.filter(email=wanted.email).first()
        has_mailbox = Mailbox.objects.filter(address=wanted.email).exists()
    if user is None:
        user = add_user(
            provider,
            wanted.email,
            password=PASSWORD,
            name=wanted.name,
            provider_admin=wanted.role == "provider admin",
            domains=[domain] if wanted.role == "domain admin" else [],
        )
    if domain and not has_mailbox:
        add_mailbox(provider, wanted.email, owner=user, aliases=wanted.aliases)


def make_rule(provider: ServiceProvider, wanted: Rule) -> None:
    domain = MailDomain.objects.filter(name=wanted.scope).first()
    with schema_context(provider.schema_name):
        SenderRule.objects.get_or_create(
            pattern=wanted.pattern,
            mailbox=Mailbox.objects.filter(address=wanted.scope).first(),
            domain_id=domain.pk if domain else None,
            defaults={"action": wanted.action},
        )
