"""Where a provider's portal is found."""

from __future__ import annotations

from django.conf import settings

from portal.tenants.models import Hostname, ServiceProvider


def get_hostname(provider: ServiceProvider) -> str:
    """The provider's primary hostname. Raises Hostname.DoesNotExist where it has none."""
    return str(Hostname.objects.only("domain").get(tenant=provider, is_primary=True).domain)


def make_portal_url(hostname: str) -> str:
    """The address of the portal at that hostname, without a slash at its end."""
    return str(settings.PORTAL_URL).format(hostname=hostname).rstrip("/")


def get_portal_url(provider: ServiceProvider) -> str:
    """The address of the provider's portal, without a slash at its end."""
    return make_portal_url(get_hostname(provider))
