"""Which provider a request is for: by its hostname, and by nothing else."""

from __future__ import annotations

from django.http import HttpRequest
from django_tenants.middleware.main import TenantMainMiddleware

from portal.tenants.models import Hostname, ServiceProvider


class ProviderMiddleware(TenantMainMiddleware):
    """django-tenants' own, for hostnames in any case or with a final dot, and without reading the logo each time."""

    @staticmethod
    def hostname_from_request(request: HttpRequest) -> str:
        hostname: str = TenantMainMiddleware.hostname_from_request(request)
        return hostname.lower().rstrip(".")

    def get_tenant(self, domain_model: type[Hostname], hostname: str) -> ServiceProvider:
        found = domain_model.objects.select_related("tenant").defer("tenant__logo").get(domain=hostname)
        provider: ServiceProvider = found.tenant
        return provider
