"""Domains and what their admins chose."""

from __future__ import annotations

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, User
from portal.web.forms.domains import DomainForm, ProviderDomainForm
from portal.web.pages import render_page
from portal.web.permissions import admin_only, get_user, list_domains, of_row
from reports.schedule import reschedule

PAGE_SIZE = 100


@admin_only
@require_safe
def domains(request: HttpRequest) -> HttpResponse:
    text, after = (
        request.GET.get("q", "").replace("\0", "").strip().lower()[:200],
        request.GET.get("after", "").replace("\0", ""),
    )
    rows = list_domains(get_user(request)).order_by("name")
    rows = rows.filter(name__contains=text) if text else rows
    page = list((rows.filter(name__gt=after) if after else rows)[: PAGE_SIZE + 1])
    context = {"rows": page[:PAGE_SIZE], "text": text}
    context["older"] = page[PAGE_SIZE - 1].name if len(page) > PAGE_SIZE else ""
    return render_page(request, "web/domains.html", context, page="domains")


@of_row(list_domains, "GET", "POST")
def domain(request: HttpRequest, row: MailDomain) -> HttpResponse:
    name = row.name
    form = choose_form(get_user(request))(request.POST or None, instance=row)
    if request.method == "POST" and form.is_valid():
        save(form)
        messages.success(request, f"Saved for {name}.")
        return redirect("domains")
    context = {"form": form, "name": name, "server": f"{row.server_host}:{row.server_port}"}
    return render_page(request, "web/domain.html", context, page="domains", status=400 if form.errors else 200)


def choose_form(user: User) -> type[DomainForm]:
    return ProviderDomainForm if user.is_provider_admin else DomainForm


def save(form: DomainForm) -> MailDomain:
    """Save, and give the domain's mailboxes their next report's time by the new hour and zone."""
    with transaction.atomic():
        row: MailDomain = form.save()
        if {"digest_hour", "time_zone"} & set(form.changed_data):
            reschedule(Mailbox.objects.filter(domain_id=row.pk))
    return row
