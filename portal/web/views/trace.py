"""Finding one message among all that the admin may see."""

from __future__ import annotations

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from portal.tenants.people.models import User
from portal.web.pages import render_page
from portal.web.permissions import admin_only, get_user, visible_to
from quarantine.models import Recipient
from quarantine.queries import NEWEST_FIRST
from quarantine.trace_id import read_trace_id

LISTED = 50


@admin_only
@require_safe
def trace(request: HttpRequest) -> HttpResponse:
    text = request.GET.get("q", "").replace("\0", "").strip()[:998]
    rows = list(find(get_user(request), text)[: LISTED + 1]) if text else []
    context = {"text": text, "rows": rows[:LISTED], "has_more": len(rows) > LISTED, "listed": LISTED}
    return render_page(request, "web/trace.html", context, page="trace")


def find(user: User, text: str) -> QuerySet[Recipient]:
    """By trace id, Message-ID, or the whole address of sender or recipient."""
    address = text.strip("<>").lower()
    wanted = Q(message__trace_id=read_trace_id(text)) | Q(message__message_id__in=[text, f"<{text.strip('<>')}>"])
    if "@" in text:
        wanted |= Q(address__iexact=address) | Q(message__sender__iexact=address)
        wanted |= Q(message__header_from__icontains=address)
    rows = visible_to(user).defer("findings", "message__evidence").filter(wanted)
    return rows.order_by(*NEWEST_FIRST)
