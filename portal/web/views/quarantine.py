"""The list of mail: the same page for every role, showing what its viewer may see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from portal.tenants.people.models import User
from portal.web.actions import ACTIONS, Outcome, count_deletable, may_act
from portal.web.pages import render_page
from portal.web.permissions import get_user, list_domains, list_mailboxes, list_own_mailboxes, signed_in, visible_to
from portal.web.selection import SHOWN, ListFilter, Selection, read_trail
from quarantine.models import Category
from quarantine.queries import Page, count_bounded, get_page, refused_by_server

PAGE_SIZE = 50
COUNTED = 1000
COUNTED_REFUSED = 100
MAX_CHOICES = 50  # mailboxes or domains offered in a select
NEWEST = {"since": "", "until": ""}  # of a query: a search begins with the newest messages
MESSAGE_LEVELS = {"success": messages.SUCCESS, "warning": messages.WARNING}


@signed_in
@require_safe
def quarantine(request: HttpRequest) -> HttpResponse:
    user = get_user(request)
    shown = ListFilter.read(request.GET, user)
    template = "web/_list.html" if request.htmx and request.htmx.target == "list" else "web/quarantine.html"  # type: ignore[attr-defined]
    context = make_list(user, shown, request.GET) | {"is_refresh": "Lazaret-Refresh" in request.headers}
    return render_page(request, template, context, page="quarantine")


@signed_in
@require_POST
def act(request: HttpRequest) -> HttpResponse:
    """Do something with the chosen messages. Deleting asks first."""
    user = get_user(request)
    chosen = Selection.read(request.POST, user)
    action = request.POST.get("action", "")
    if action not in ACTIONS or not (chosen.ids or chosen.is_matching):
        return answer(request, chosen, Outcome("warning", "Choose one or more messages first."))
    rows = chosen.list_rows(user)
    if action == "delete" and request.POST.get("confirmed") != "1":
        return confirm(request, chosen, count_deletable(rows, COUNTED))
    return answer(request, chosen, ACTIONS[action](request, rows))


def confirm(request: HttpRequest, chosen: Selection, count: int) -> HttpResponse:
    """Ask before deleting: in a dialog, or on a page of its own where there is no script."""
    context = {"count": count, "counted": COUNTED, "chosen": chosen, "fields": list_fields(request.POST)}
    context["back"] = make_back(request.POST, chosen)
    if not request.htmx:  # type: ignore[attr-defined]
        return render_page(request, "web/confirm_delete.html", context, page="quarantine")
    response = render_page(request, "web/_confirm_delete.html", context, page="quarantine")
    response["HX-Retarget"], response["HX-Reswap"], response["HX-Trigger"] = "#dialog", "innerHTML", "open-dialog"
    return response


def list_fields(data: QueryDict) -> list[tuple[str, str]]:
    """The form again, as hidden fields."""
    left_out = {"csrfmiddlewaretoken", "action", "confirmed"}
    return [(name, value) for name, values in data.lists() if name not in left_out for value in map(str, values)]


def answer(request: HttpRequest, chosen: Selection, outcome: Outcome) -> HttpResponse:
    """Say what was done, and show the list again at the same place."""
    user = get_user(request)
    if request.htmx and not request.POST.get("message"):  # type: ignore[attr-defined]
        context = make_list(user, chosen.shown, request.POST) | {"outcome": outcome}
        response = render_page(request, "web/_list.html", context, page="quarantine")
        response["HX-Trigger"] = "close-dialog"
        if chosen.shown.since:  # the same part is looked at again
            response["HX-Replace-Url"] = make_back(request.POST, chosen)
        return response
    messages.add_message(request, MESSAGE_LEVELS[outcome.level], outcome.text)
    return redirect(make_back(request.POST, chosen))


def make_back(data: QueryDict, chosen: Selection) -> str:
    """Where the person came from: a message's page, or the list."""
    if data.get("message") == "1" and len(chosen.ids) == 1:
        return f"/m/{chosen.ids[0]}/"
    places = {name: data.get(name, "") for name in ("after", "trail")}
    query = chosen.shown.to_query(**places)
    return f"/?{query}" if query else "/"


def make_list(user: User, shown: ListFilter, data: QueryDict) -> dict[str, Any]:
    """Everything that the list's template shows: one page of rows by key, and a bounded count."""
    visible = visible_to(user)
    shown = shown.bound(visible)
    rows, after, trail = shown.narrow(visible), data.get("after") or None, read_trail(data)
    page = get_page(rows, after=after, size=PAGE_SIZE)
    if after and not page.items:
        page, after, trail = get_page(rows, after=None, size=PAGE_SIZE), None, []
    for row in page.items:
        row.can_act = may_act(row.state)  # type: ignore[attr-defined]
    own = list(list_mailboxes(user)[: MAX_CHOICES + 1])
    domains = list(list_domains(user)[: MAX_CHOICES + 1])
    return {
        "filter": shown,
        "rows": page.items,
        "total": count_bounded(rows, COUNTED) if after or page.next else len(page.items),
        "counted": COUNTED,
        "older": make_older(shown, page, after, trail),
        "newer": make_newer(shown, after, trail),
        "places": {"after": after or "", "trail": ".".join(trail)},
        "refused": (refused := count_bounded(refused_by_server(visible), COUNTED_REFUSED)),
        "further": make_further(shown) if not page.next else "",
        "newest": shown.to_query(**NEWEST) if shown.until else None,
        "refused_query": shown.to_query(show="refused", **NEWEST),
        "tabs": list(make_tabs(shown, refused)),
        "categories": Category.choices,
        "mailboxes": own if 1 < len(own) <= MAX_CHOICES else [],
        "domains": domains if 1 < len(domains) <= MAX_CHOICES else [],
        "shows_recipient": len(own) != 1,
        "has_report": bool(shown.mailbox) or list_own_mailboxes(user).exists(),
        "is_watched": any(row.state == "releasing" for row in page.items),
        "can_choose": any(may_act(row.state) for row in page.items),
        "seen": timezone.now().isoformat(),
    }


def make_tabs(shown: ListFilter, refused: int) -> Iterator[tuple[str, str, str]]:
    """Name, label and query of each tab."""
    for name, (label, _) in SHOWN.items():
        if name != "refused":
            yield name, label, shown.to_query(show="" if name == "held" else name, **NEWEST)
        elif refused or shown.show == name:
            more = "+" if refused == COUNTED_REFUSED else ""
            yield name, f"{label} ({refused}{more})", shown.to_query(show=name, **NEWEST)


def make_older(shown: ListFilter, page: Page, after: str | None, trail: list[str]) -> str:
    """The query of the next page; the places behind us go along, so that "newer" shows what was seen."""
    if not page.next:
        return ""
    return shown.to_query(after=page.next) + "&" + urlencode({"trail": ".".join([*trail, after or ""])})


def make_further(shown: ListFilter) -> str:
    """The query of the same search before what was looked through; empty where that was everything."""
    return shown.to_query(since="", until=shown.since.isoformat()) if shown.since else ""


def make_newer(shown: ListFilter, after: str | None, trail: list[str]) -> str | None:
    """The query of the page before this one; None where this is the first."""
    if not after:
        return None
    if not trail:
        return shown.to_query()
    query = shown.to_query(after=trail[-1])
    return query + ("&" + urlencode({"trail": ".".join(trail[:-1])}) if len(trail) > 1 else "")
