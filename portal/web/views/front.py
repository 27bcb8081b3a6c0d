"""The page at a hostname that is no provider's: it says so, and names nobody."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from portal.tenants.models import ServiceProvider
from portal.tenants.urls import get_portal_url


@require_safe
def front(request: HttpRequest) -> HttpResponse:
    """Only the demo lists its providers: elsewhere who is a customer is nobody's business."""
    providers = ServiceProvider.objects.exclude(schema_name="public").order_by("name") if settings.DEMO else []
    portals = [(provider.name, get_portal_url(provider)) for provider in providers]
    return render(request, "web/front.html", {"portals": portals}, status=200 if portals else 404)
