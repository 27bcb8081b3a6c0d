"""One message: what is known of it, why it was held, what became of it, and a safe look inside."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.clickjacking import xframe_options_sameorigin

from portal.tenants.people.models import SenderRule, User
from portal.web.actions import get_sender, may_act, may_release, set_rule
from portal.web.pages import render_page
from portal.web.permissions import (
    get_user,
    list_domains,
    list_mailboxes,
    list_own_mailboxes,
    looks_after,
    of_row,
    visible_to,
)
from portal.web.preview import find_html, find_raw, make_preview
from portal.web.words import PTR
from quarantine.causes import Cause
from quarantine.models import UNTAKEN, Category, MessageKind, Recipient
from quarantine.outcomes import list_events, name_event, was_read, was_sent
from quarantine.said import find_answer, read_said

FRAME_POLICY = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'"
FILE_POLICY = "sandbox; default-src 'none'"
MAX_EVENTS = 200
MAX_OTHERS = 50
LOOKS = ("text", "html", "headers")


@of_row(visible_to, "GET")
def message(request: HttpRequest, row: Recipient) -> HttpResponse:
    user = get_user(request)
    look = request.GET.get("look", "text")
    context = get_facts(user, row) | {"look": look if look in LOOKS else "text", "may_look": may_look(user, row)}
    if context["may_look"]:
        context["preview"] = make_preview(row.message)
    return render_page(request, "web/message.html", context, page="quarantine")


def get_facts(user: User, row: Recipient) -> dict[str, Any]:
    others = visible_to(user).filter(message=row.message).exclude(pk=row.pk)
    sender = get_sender(row)
    return {
        "row": row,
        "ptr": PTR.get(row.message.ptr_status, ""),
        "findings": [finding for finding in row.findings if isinstance(finding, dict)],
        "trace": [(name_event(event, row), event) for event in list_events(row)[:MAX_EVENTS]],
        "was_read": was_read(row),
        "was_taken": row.listed != UNTAKEN,
        "was_sent": was_sent(row),
        "is_to_rcpt": row.reply == find_answer(read_said(row.message.replies), row.address),
        "others": others.order_by("address")[:MAX_OTHERS],
        "sender": sender,
        "sender_domain": sender.rpartition("@")[2],
        "scopes": list_scopes(user, row),
        "has_no_name": was_for_reverse_dns(row),
        "may_act": may_act(row.state),
        "may_except": row.message.ptr_status == "none" and looks_after(user, row.domain_id),
        "may_release": may_release(user, row),
        "may_download": may_download(user, row),
    }


def was_for_reverse_dns(row: Recipient) -> bool:
    """Whether it was refused or held because its server has no name: no rule about its sender changes that."""
    findings = (finding for finding in row.findings if isinstance(finding, dict))
    decided = any(finding.get("check") == "reverse_dns" and finding.get("action") for finding in findings)
    return decided or row.cause == Cause.REVERSE_DNS


def list_scopes(user: User, row: Recipient) -> list[tuple[str, str]]:
    """For whom a rule about this sender can be made, the narrowest first."""
    scopes = []
    if row.mailbox_id and (mailbox := list_mailboxes(user).filter(pk=row.mailbox_id).first()):
        scopes.append(("mailbox", mailbox.address))
    if domain := list_domains(user).filter(pk=row.domain_id).first():
        scopes.append(("domain", f"everybody at {domain.name}"))
    return [*scopes, ("all", "all domains")] if user.is_provider_admin else scopes


def may_look(user: User, row: Recipient) -> bool:
    """Who was not taken for the message does not see what others got. And the links and codes of a report of ours are a
    key to its mailbox: nobody but the owner sees inside.
    """
    if not was_read(row):
        return False
    if row.message.kind == MessageKind.MAIL:
        return True
    return row.mailbox_id is not None and list_own_mailboxes(user).filter(pk=row.mailbox_id).exists()


def may_download(user: User, row: Recipient) -> bool:
    """A virus is handed only to admins of the domain that it came to."""
    if not may_look(user, row):
        return False
    return row.category != Category.VIRUS or looks_after(user, row.domain_id)


@of_row(visible_to, "POST")
def rule_sender(request: HttpRequest, row: Recipient) -> HttpResponse:
    """Allow or block the sender of this message, or its whole domain."""
    user = get_user(request)
    action, scope, sender = request.POST.get("action"), request.POST.get("scope", ""), get_sender(row)
    if action not in SenderRule.Action.values or scope not in dict(list_scopes(user, row)) or "@" not in sender:
        raise Http404
    pattern = "@" + sender.rpartition("@")[2] if request.POST.get("whole") == "1" else sender
    mailbox_id = row.mailbox_id if scope == "mailbox" else None
    set_rule(user, pattern, action, mailbox_id=mailbox_id, domain_id=row.domain_id if scope == "domain" else None)
    word = "allowed" if action == SenderRule.Action.ALLOW else "blocked"
    messages.success(request, f"{pattern} is {word} from now on, for {dict(list_scopes(user, row))[scope]}.")
    return redirect("message", pk=row.pk)


@of_row(visible_to, "GET")
@xframe_options_sameorigin
def html(request: HttpRequest, row: Recipient) -> HttpResponse:
    """The message's HTML, for the sandboxed frame of its page."""
    if not may_look(get_user(request), row):
        raise Http404
    response = render(request, "web/message_html.html", {"html": find_html(row.message)})
    response["Content-Security-Policy"] = FRAME_POLICY
    response["Cache-Control"] = "no-store"
    response["Referrer-Policy"] = "no-referrer"
    return response


@of_row(visible_to, "GET")
def raw(request: HttpRequest, row: Recipient) -> HttpResponse:
    """The octets as they were received, to be saved and never shown."""
    octets = find_raw(row.message) if may_download(get_user(request), row) else None
    if octets is None:
        raise Http404
    headers = {
        "Content-Disposition": f'attachment; filename="{row.message.trace_id}.eml"',
        "Content-Security-Policy": FILE_POLICY,
        "Cache-Control": "no-store",
    }
    return HttpResponse(octets, content_type="message/rfc822", headers=headers)
