"""Mailboxes: for their owners and for admins; and the report of what is held, sent again."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Func, IntegerField, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST, require_safe

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from portal.web.forms.mailboxes import MailboxForm
from portal.web.pages import render_page
from portal.web.permissions import (
    admin_only,
    get_provider,
    get_user,
    list_domains,
    list_mailboxes,
    list_own_mailboxes,
    of_row,
    signed_in,
)
from portal.web.selection import read_id
from quarantine.models import Recipient
from quarantine.queries import held
from reports.links import list_browsers
from reports.schedule import request_digest, reschedule

PAGE_SIZE = 50
COUNTED = 1000
MAX_DOMAINS = 50


@admin_only
@require_safe
def mailboxes(request: HttpRequest) -> HttpResponse:
    user, text = get_user(request), request.GET.get("q", "").replace("\0", "").strip().lower()[:200]
    domains = list_domains(user)
    chosen = get_object_or_404(domains, pk=read_id(request.GET["domain"])) if request.GET.get("domain") else None
    rows = find_mailboxes(
        list_mailboxes(user), text=text, domain=chosen, after=request.GET.get("after", "").replace("\0", "")
    )
    page = list(count_held(rows).select_related("owner").order_by("address")[: PAGE_SIZE + 1])
    names = {domain.pk: domain for domain in domains}
    choices = list(names.values()) if 1 < len(names) <= MAX_DOMAINS else []
    context = {
        "rows": [(mailbox, names.get(mailbox.domain_id)) for mailbox in page[:PAGE_SIZE]],
        "older": page[PAGE_SIZE - 1].address if len(page) > PAGE_SIZE else "",
        "text": text,
        "domains": choices,
        "chosen": chosen,
        "counted": COUNTED,
    }
    return render_page(request, "web/mailboxes.html", context, page="mailboxes")


def find_mailboxes(rows: QuerySet[Mailbox], *, text: str, domain: MailDomain | None, after: str) -> QuerySet[Mailbox]:
    if text:
        rows = rows.filter(Q(address__contains=text) | Q(owner__email__contains=text) | Q(owner__name__icontains=text))
    if domain:
        rows = rows.filter(domain_id=domain.pk)
    return rows.filter(address__gt=after) if after else rows


def count_held(rows: QuerySet[Mailbox]) -> QuerySet[Mailbox]:
    """Each with how many messages it holds, counted up to COUNTED. Index: recipient_listed_mailbox."""
    one = held(Recipient.objects.filter(mailbox=OuterRef("pk"))).order_by().values("pk")[:COUNTED]
    return rows.annotate(held=Func(ArraySubquery(one), function="cardinality", output_field=IntegerField()))


@signed_in
@require_safe
def account(request: HttpRequest) -> HttpResponse:
    """The user's own mailboxes, password and remembered browsers."""
    rows = count_held(list_own_mailboxes(get_user(request))).order_by("address")[:PAGE_SIZE]
    domains = get_provider(request).mail_domains.in_bulk()
    context = {"rows": [(row, domains.get(row.domain_id)) for row in rows], "counted": COUNTED}
    context["browsers"] = list_browsers(list_own_mailboxes(get_user(request))).count()
    return render_page(request, "web/account.html", context, page="account")


@signed_in
@require_POST
def forget_browsers(request: HttpRequest) -> HttpResponse:
    """Every browser that once showed a code of the user's reports has to show one again."""
    list_browsers(list_own_mailboxes(get_user(request))).delete()
    messages.success(request, "All browsers are forgotten. Each is asked for a code the next time.")
    return redirect("account")


@of_row(list_mailboxes, "GET", "POST")
def mailbox(request: HttpRequest, row: Mailbox) -> HttpResponse:
    """When a mailbox gets its daily report."""
    domain = get_object_or_404(get_provider(request).mail_domains, pk=row.domain_id)
    form = MailboxForm(request.POST or None, instance=row, domain_hour=domain.digest_hour)
    if request.method == "POST" and form.is_valid():
        form.save()
        reschedule(Mailbox.objects.filter(pk=row.pk))
        messages.success(request, f"Saved for {row.address}.")
        return redirect(back_to(request, row))
    context = {"form": form, "mailbox": row, "domain": domain, "back": back_to(request, row)}
    return render_page(request, "web/mailbox.html", context, page="account", status=400 if form.errors else 200)


def back_to(request: HttpRequest, row: Mailbox) -> str:
    return "account" if row.owner_id == get_user(request).pk else "mailboxes"


@signed_in
@require_POST
def send_report(request: HttpRequest) -> HttpResponse:
    """Report the last 24 hours again, to one mailbox or to all of one's own."""
    user = get_user(request)
    wanted, row = list_own_mailboxes(user), None
    if request.POST.get("mailbox"):
        wanted = list_mailboxes(user).filter(pk=read_id(request.POST["mailbox"]))
        row = get_object_or_404(wanted)
    if not wanted.exists():
        messages.warning(request, "You have no mailbox of your own to report on.")
    elif not request_digest(wanted, by=user):
        messages.warning(request, "You asked for that report less than a minute ago. It is on its way.")
    else:
        who = row.address if row else "your mailbox"
        messages.success(request, f"The report of the last 24 hours is on its way to {who}.")
    return redirect(back_from_report(request, row))


def back_from_report(request: HttpRequest, row: Mailbox | None) -> str:
    if request.POST.get("back") == "list":
        return f"/?mailbox={row.pk}" if row else "/"
    return back_to(request, row) if row else "account"
