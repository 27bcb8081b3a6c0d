"""Reverse DNS: which mail servers are let in without it for a time, by whom and why; granted and ended by admins."""

from __future__ import annotations

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from filtering.policy.ptr_exceptions import end, is_in_force, name_scopes
from portal.tenants.people.models import PtrException, User
from portal.web.forms.ptr_exceptions import PtrExceptionForm
from portal.web.pages import render_page
from portal.web.permissions import (
    admin_only,
    get_user,
    list_domains,
    list_ptr_exceptions,
    of_row,
    visible_ptr_exceptions,
)
from portal.web.selection import read_id
from quarantine.platform.heartbeat import find_rule_off

PAGE_SIZE = 50


@admin_only
@require_http_methods(["GET", "HEAD", "POST"])
def ptr_exceptions(request: HttpRequest) -> HttpResponse:
    user = get_user(request)
    form = PtrExceptionForm(user, request.POST or None, initial=read_wish(request, user))
    if request.method == "POST" and form.is_valid() and (made := form.save()):
        messages.success(request, f"{made.network} is let in from now on, whatever its reverse DNS is.")
        return redirect("ptr_exceptions")
    is_past = request.GET.get("show") == "past"
    page = list(find_page(user, is_past=is_past, before=request.GET.get("before", ""))[: PAGE_SIZE + 1])
    context = {"form": form, "rows": describe(request, page[:PAGE_SIZE]), "is_past": is_past}
    context["rule_off"] = find_rule_off()
    context["older"] = page[PAGE_SIZE - 1].pk if len(page) > PAGE_SIZE else ""
    status = 400 if form.errors else 200
    return render_page(request, "web/ptr_exceptions.html", context, page="ptr_exceptions", status=status)


def read_wish(request: HttpRequest, user: User) -> dict[str, str]:
    """What a link to the form asks for: a client's address, and the domain that refused it."""
    wish = {"network": request.GET.get("network", "").replace("\0", "").strip()[:100]}
    if domain := request.GET.get("domain", ""):
        if not list_domains(user).filter(pk=read_id(domain)).exists():
            raise Http404
        wish["scope"] = domain
    return wish


def find_page(user: User, *, is_past: bool, before: str) -> QuerySet[PtrException]:
    """Those in force or those past, the newest first, from before the one with that id."""
    rows = visible_ptr_exceptions(user)
    rows = rows.exclude(is_in_force()) if is_past else rows.filter(is_in_force())
    return (rows.filter(pk__lt=read_id(before)) if before else rows).order_by("-pk")


def describe(request: HttpRequest, rows: list[PtrException]) -> list[tuple[PtrException, str, bool]]:
    """Each with the words for whom it holds, and whether the viewer may end it (and read by whom and why)."""
    scopes = name_scopes(rows)
    own = set(
        list_ptr_exceptions(get_user(request)).filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True)
    )
    return [(row, scopes[row.domain_id], row.pk in own) for row in rows]


@of_row(list_ptr_exceptions, "POST")
def end_ptr_exception(request: HttpRequest, row: PtrException) -> HttpResponse:
    user = get_user(request)
    if end(list_ptr_exceptions(user).filter(pk=row.pk), by=user.email):
        messages.success(request, f"The exception for {row.network} is ended.")
    else:
        messages.info(request, f"The exception for {row.network} had ended already.")
    return redirect("ptr_exceptions")
