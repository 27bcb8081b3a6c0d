"""The cast of the tests: two providers, their domains and people. The same names everywhere."""

from __future__ import annotations

from django.db import connection
from django_tenants.utils import schema_context

from filtering.policy.models import PolicyRelease
from portal.tenants.models import Hostname, MailDomain, ServiceProvider
from portal.tenants.people.models import DomainAdmin, Mailbox, User

PASSWORD = "correct horse battery"
KEPT_TABLES = {"django_migrations", "django_content_type", "auth_permission"}

# provider: (name, {domain: server port}, {user: (provider admin, administered domains, mailboxes)})
PROVIDERS = {
    "acme": (
        "Acme IT",
        ["alpha.test", "beta.test"],
        {
            "alice@acme.test": (True, [], []),
            "dora@alpha.test": (False, ["alpha.test"], ["dora@alpha.test"]),
            "bob@alpha.test": (False, [], ["bob@alpha.test"]),
            "carol@alpha.test": (False, [], ["carol@alpha.test"]),
            "bea@beta.test": (False, [], ["bea@beta.test"]),
        },
    ),
    "globex": (
        "Globex",
        ["gamma.test"],
        {
            "mallory@globex.test": (True, [], []),
            "gus@gamma.test": (False, [], ["gus@gamma.test"]),
        },
    ),
}


def make_schemas() -> None:
    """Make the providers' schemas (once a test database)."""
    for slug, (name, _, _) in PROVIDERS.items():
        if not ServiceProvider.objects.filter(slug=slug).exists():
            provider = ServiceProvider(slug=slug, schema_name=f"sp_{slug}", name=name)
            provider.save()
            Hostname.objects.create(domain=f"{slug}.localhost", tenant=provider, is_primary=True)


def make_people() -> None:
    """Fill the schemas with the cast's domains, users and mailboxes."""
    for slug, (_, domains, users) in PROVIDERS.items():
        provider = ServiceProvider.objects.get(slug=slug)
        ids = {}
        for name in domains:
            ids[name] = MailDomain.objects.create(
                name=name, provider=provider, server_host="127.0.0.1", server_port=9
            ).pk
        with schema_context(provider.schema_name):
            for email, (is_admin, administered, mailboxes) in users.items():
                user = User.objects.create_user(email, PASSWORD, is_provider_admin=is_admin)
                DomainAdmin.objects.bulk_create(DomainAdmin(user=user, domain_id=ids[name]) for name in administered)
                for address in mailboxes:
                    Mailbox.objects.create(address=address, domain_id=ids[address.partition("@")[2]], owner=user)


def wipe() -> None:
    """Empty every table but what the migrations filled: for tests that commit."""
    schemas = [f"sp_{slug}" for slug in PROVIDERS]
    releases = list(PolicyRelease.objects.all())
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY(%s)"
            " OR (schemaname = 'public' AND (tablename = 'tenants_maildomain' OR tablename LIKE 'platform\\_%%'))",
            [schemas],
        )
        tables = [f'"{schema}"."{table}"' for schema, table in cursor.fetchall() if table not in KEPT_TABLES]
        cursor.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE")
    assert list(PolicyRelease.objects.all()) == releases
