"""Finding what became of a mail, among all that the viewer may see, and its whole history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.formats import date_format
from django.views.decorators.http import require_safe

from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain
from portal.tenants.people.models import User
from portal.web.forms.trace import TraceForm
from portal.web.pages import choose_time_zone, render_page
from portal.web.permissions import (
    get_provider,
    get_user,
    list_domains,
    list_own_mailboxes,
    looks_after,
    of_row,
    signed_in,
    visible_to,
)
from portal.web.words import explain, explain_ptr
from quarantine.causes import name_cause
from quarantine.models import UNTAKEN, Message, Recipient
from quarantine.outcomes import list_events, name_event, name_outcome, was_read, was_sent
from quarantine.queries import list_next_tries
from quarantine.retention import UNTAKEN_DAYS
from quarantine.said import Exchange, count_before_content, find_answer, read_said
from quarantine.tracing import Found, find_page, list_ways
from quarantine.wanted import Wanted, describe

LISTED = 50
NAMED = 5  # domains or mailboxes of the viewer's that a sentence names
MAX_EVENTS = 500
MAX_OTHERS = 50


@signed_in
@require_safe
def trace(request: HttpRequest) -> HttpResponse:
    user = get_user(request)
    with timezone.override(choose_time_zone(request, user)):
        form = TraceForm(request.GET)
        wanted = form.wanted
        context: dict[str, Any] = {"form": form, "days": UNTAKEN_DAYS, "scope": name_scope(request, user)}
        if wanted:
            context |= make_answer(request, user, wanted)
    return render_page(request, "web/trace.html", context, page="trace")


def make_answer(request: HttpRequest, user: User, wanted: Wanted) -> dict[str, Any]:
    """What was found, and where to look on. An address of no envelope is looked for in the line From."""
    after, address = request.GET.get("after"), "@" in wanted.party[1:]
    found, searched = find(user, wanted, after), describe(wanted, show_time)
    if address and not found.items and not after:
        wanted = wanted.in_header()
        found = find(user, wanted, after)
        searched = describe(wanted, show_time) if found.items else f"{searched}, and the line From"
    query = {name: value for name, value in request.GET.items() if value and name != "after"}
    if wanted.header_from:
        query["from"] = "1"
    return {
        "rows": found.items,
        "wanted": wanted,
        "searched": searched,
        "reached": found.reached,
        "older": urlencode(query | {"after": found.next}) if found.next else "",
        "newest": urlencode(query) if after else "",
        "in_header": urlencode(query | {"from": "1"}) if address and not wanted.header_from else "",
    }


def find(user: User, wanted: Wanted, after: str | None) -> Found:
    rows = visible_to(user).defer("findings", "message__evidence", "message__replies")
    domains = MailDomain.objects.filter(provider__schema_name=get_schema())
    return find_page(list_ways(wanted, rows, domains), after=after, size=LISTED)


def show_time(at: datetime) -> str:
    return date_format(timezone.localtime(at), "j M Y H:i")


def name_scope(request: HttpRequest, user: User) -> str:
    """Whose mail is searched, in words."""
    if user.is_provider_admin:
        return f"all mail of {get_provider(request).name}"
    names = list(list_domains(user).order_by("name").values_list("name", flat=True)[: NAMED + 1])
    names += list_own_mailboxes(user).order_by("address").values_list("address", flat=True)[: NAMED + 1]
    more = " and more" if len(names) > NAMED else ""
    return f"mail for {', '.join(names[:NAMED])}{more}" if names else "no mail, because you have no mailbox yet"


@of_row(visible_to, "GET")
def history(request: HttpRequest, row: Recipient) -> HttpResponse:
    """Everything about one mail for one recipient, from the sender's greeting to the last answer."""
    user = get_user(request)
    same = visible_to(user).filter(message=row.message).exclude(pk=row.pk)
    said = read_said(row.message.replies)
    answer = find_answer(said, row.address)
    job = list_next_tries([row]).get(row.pk)
    context = {
        "row": row,
        "headline": name_outcome(row),
        "advice": explain(row),
        "cause": name_cause(row.cause),
        "ptr": explain_ptr(row.message.ptr_status, row.message.ptr_detail),
        "said": list_said(user, row, said, list(same.values_list("address", flat=True))),
        "is_to_rcpt": row.reply == answer,
        "was_read": was_read(row),
        "was_sent": was_sent(row),
        "job": job,
        "is_being_tried": job is not None and job.is_in_hand(timezone.now()),
        "is_due": job is not None and job.due_at <= timezone.now(),
        "events": [(name_event(event, row), event) for event in list_events(row)[:MAX_EVENTS]],
        "others": same.order_by("address", "pk")[:MAX_OTHERS],
        "was_taken": row.listed != UNTAKEN,
        "has_no_name": row.cause == "reverse_dns",
        "may_except": row.cause == "reverse_dns" and looks_after(user, row.domain_id),
        "days": UNTAKEN_DAYS,
    }
    return render_page(request, "web/history.html", context, page="trace")


def list_said(
    user: User, row: Recipient, said: Sequence[Exchange], others: Sequence[str]
) -> list[tuple[Exchange, bool]]:
    """What was said in the transaction, as far as the user may know of it, and whether it was for other recipients.

    Who was not accepted at RCPT has nothing to do with what followed: it is told only to those who see some of the
    `others` for whom it may have been.
    """
    told = _list_known(user, row.message, said, [row.address, *others])
    was_refused = find_answer(said, row.address)[:1] in {"4", "5"}
    own = count_before_content(told) if was_refused else len(told)
    return [(one, place >= own) for place, one in enumerate(told if others else told[:own])]


def _list_known(user: User, message: Message, said: Sequence[Exchange], visible: Iterable[str]) -> list[Exchange]:
    """The others may be blind copies: nothing that names them is told. A provider's rows have its own only."""
    if user.is_provider_admin:
        return list(said)
    known = {address.lower() for address in visible}
    hidden = {address.lower() for address in message.recipients.values_list("address", flat=True)} - known
    return [one for one in said if _may_tell(one, known, hidden)]


def _may_tell(one: Exchange, known: set[str], hidden: set[str]) -> bool:
    verb = one.command[:4].upper()
    if verb == "RCPT":
        return one.recipient in known and not _names(one.reply, hidden)
    return not _names(one.reply, hidden) and (verb == "MAIL" or not _names(one.command, hidden))


def _names(text: str, addresses: set[str]) -> bool:
    text = text.lower()
    return any(address in text for address in addresses)
