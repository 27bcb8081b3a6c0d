"""Which provider a request is for: by its hostname, and by nothing else. What is told where a page takes too long."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django_tenants.middleware.main import TenantMainMiddleware
from psycopg.errors import QueryCanceled

from portal.tenants.models import Hostname, ServiceProvider
from portal.web.views.errors import took_too_long

log = logging.getLogger(__name__)


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


class PatienceMiddleware:
    """Answers what PostgreSQL ended (see portal.web.patience) with a page that says so."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not (isinstance(exception, OperationalError) and isinstance(exception.__cause__, QueryCanceled)):
            return None
        view = request.resolver_match.view_name if request.resolver_match else ""
        log.warning("page_took_too_long view=%s", view)
        return took_too_long(request)
