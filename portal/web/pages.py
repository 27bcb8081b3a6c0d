"""What every page needs: who looks at it, and in which time zone."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from portal.tenants.models import MailDomain
from portal.tenants.people.models import User
from portal.web.permissions import get_provider, get_user, is_admin, list_domains, list_own_mailboxes


def viewer(request: HttpRequest) -> dict[str, Any]:
    """Context processor: whether the menu has the admins' entries; asked only where a menu is drawn."""
    return {"admin": SimpleLazyObject(lambda: is_admin(get_user(request)))}


def choose_time_zone(request: HttpRequest, user: User) -> str:
    """The zone of the domains that the user sees, where it is one; else UTC. Pages say which it is."""
    own = list_own_mailboxes(user).values_list("domain_id", flat=True)
    domains = MailDomain.objects.filter(provider=get_provider(request))
    mine = domains.filter(Q(pk__in=list(own)) | Q(pk__in=list_domains(user).values("pk")))
    zones = list(mine.order_by().values_list("time_zone", flat=True).distinct()[:2])
    return zones[0] if len(zones) == 1 else "UTC"


def render_page(
    request: HttpRequest, template: str, context: dict[str, Any], *, page: str, status: int = 200
) -> HttpResponse:
    """Render for a signed-in user, with times in the viewer's zone; never kept by a cache or the browser's history."""
    zone = choose_time_zone(request, get_user(request))
    with timezone.override(zone):
        response = render(request, template, context | {"page": page, "zone": zone}, status=status)
    response["Cache-Control"] = "no-store"
    return response
