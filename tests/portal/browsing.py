"""Browsers for the tests of pages: Django's client at a provider's hostname, as one of the cast."""

from __future__ import annotations

from django.http import HttpResponse
from django.test import Client
from django_tenants.utils import schema_context

from portal.tenants.people.models import User

HOMES = {
    "acme.test": "acme",
    "alpha.test": "acme",
    "beta.test": "acme",
    "globex.test": "globex",
    "gamma.test": "globex",
}
PEOPLE = {
    "alice": "alice@acme.test",
    "dora": "dora@alpha.test",
    "bob": "bob@alpha.test",
    "carol": "carol@alpha.test",
    "bea": "bea@beta.test",
    "mallory": "mallory@globex.test",
    "gus": "gus@gamma.test",
}


def browse(name: str = "", *, at: str = "acme", **options) -> Client:
    """A browser at the provider's hostname; with a name, signed in at that person's own provider."""
    client = Client(HTTP_HOST=f"{at}.localhost", **options)
    if name:
        email = PEOPLE[name]
        with schema_context(f"sp_{HOMES[email.partition('@')[2]]}"):
            client.force_login(User.objects.get(email=email))
    return client


def get_text(response: HttpResponse) -> str:
    """The page, without the places where an address may be broken: nobody sees those."""
    return response.content.decode().replace("<wbr>", "")
