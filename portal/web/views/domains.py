"""Domains and what their admins chose."""

from __future__ import annotations

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, User
from portal.web import mailbox_check
from portal.web.forms.domains import AddressForm, DomainForm, ProviderDomainForm, name_release_choice
from portal.web.pages import render_page
from portal.web.permissions import admin_only, get_user, list_domains, of_row
from quarantine.queries import count_unverified
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
    context = {"rows": page[:PAGE_SIZE], "text": text, "ptr_release": name_release_choice()}
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
    return render_domain(request, row, name, form, AddressForm(domain=row))


@of_row(list_domains, "POST")
def check_mailbox(request: HttpRequest, row: MailDomain) -> HttpResponse:
    """Ask the domain's mail server now whether it has a mailbox."""
    form = AddressForm(request.POST, domain=row)
    if not form.is_valid():
        return render_domain(request, row, row.name, choose_form(get_user(request))(instance=row), form)
    answer = mailbox_check.check_mailbox(row, form.cleaned_data["address"])
    if answer is None:
        messages.warning(request, "The mail server was asked very often just now. Try again in a minute.")
    else:
        messages.info(request, mailbox_check.tell(form.cleaned_data["address"], answer))
    return redirect("domain", pk=row.pk)


def render_domain(
    request: HttpRequest, row: MailDomain, name: str, form: DomainForm, address: AddressForm
) -> HttpResponse:
    context = {"form": form, "name": name, "server": f"{row.server_host}:{row.server_port}", "address": address}
    context["unverified"] = count_unverified(row)
    status = 400 if form.errors or address.errors else 200
    return render_page(request, "web/domain.html", context, page="domains", status=status)


def choose_form(user: User) -> type[DomainForm]:
    return ProviderDomainForm if user.is_provider_admin else DomainForm


def save(form: DomainForm) -> MailDomain:
    """Save, and give the domain's mailboxes their next report's time by the new hour and zone."""
    with transaction.atomic():
        row: MailDomain = form.save()
        if {"digest_hour", "time_zone"} & set(form.changed_data):
            reschedule(Mailbox.objects.filter(domain_id=row.pk))
    return row
