"""The page that a link of a report opens. Opening it changes nothing, however often and by whatever program.

Mail scanners open every link, run scripts and press the first button. So a browser that nobody knows needs what a
scanner does not type: the code printed beside the link. One that is signed in, or showed a code before, needs a click.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps

from allauth.account.adapter import get_adapter
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path, re_path, reverse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods
from redis.exceptions import RedisError

from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain
from portal.tenants.people.models import User
from quarantine.models import Event, State
from quarantine.queries import visible_to
from reports import links, wording
from reports.links import CodeAnswer
from reports.models import DigestLink, RememberedBrowser

logger = logging.getLogger(__name__)

TOKEN = re.compile(r"[a-z2-7]{32}(?![a-z0-9])")  # what a mail program stuck to its end is not part of it
MAX_GUESSES = 20  # unknown tokens and wrong codes from one address
GUESS_SECONDS = 60
COOKIE = "browser-"  # and the mailbox's id
OPEN = {State.QUARANTINED, State.HELD}  # held: the customer's server refused it; it may be tried again
GONE = {State.DELETED, State.EXPIRED, State.REFUSED}
ANSWERS = {
    CodeAnswer.WRONG: "That is not the code printed beside this message. Please look again.",
    CodeAnswer.SPENT: "Too many wrong codes were tried. Sign in to release this message.",
}
INCOMPLETE = "Please enter the six digits printed beside this message in your report."

View = Callable[[HttpRequest, str], HttpResponse]


@dataclass(frozen=True)
class Visitor:
    """Who may release the item by one click, and how we know."""

    address: str
    known_by: str
    browser: RememberedBrowser | None = None


def kept_private(view: View) -> View:
    """Whatever is answered, a refusal too: not kept, not indexed, and the address with its token told to nobody."""

    @wraps(view)
    def answer(request: HttpRequest, token: str) -> HttpResponse:
        response = view(request, token)
        response["Referrer-Policy"] = "no-referrer"
        response["Cache-Control"] = "no-store"
        response["X-Robots-Tag"] = "noindex"
        return response

    return answer


@csrf_exempt  # by the middleware, which would answer without the headers; csrf_protect checks just the same
@kept_private
@csrf_protect
@require_http_methods(["GET", "HEAD", "POST"])
def digest_link(request: HttpRequest, token: str) -> HttpResponse:
    """Show one item of a report; by POST, from somebody who may, release it."""
    if is_guessing(request):
        return render(request, "links/wait.html", status=429)
    found = TOKEN.match(token.lower())
    link = links.find_link(found.group()) if found else None
    if link is None:
        count_guess(request)
        return render(request, "links/gone.html", status=404)
    if link.expires_at <= timezone.now() or link.recipient.state in GONE:
        return render(request, "links/gone.html", status=410)
    if request.method == "POST" and link.recipient.state in OPEN and links.is_releasable(link.recipient):
        return release_item(request, link)
    return show_item(request, link)


def release_item(request: HttpRequest, link: DigestLink) -> HttpResponse:
    visitor, cookie = find_visitor(request, link), ""
    if visitor is None:
        error = check_code(request, link)
        if error:
            return show_item(request, link, error=error)
        visitor = Visitor(link.digest.mailbox.address, "code")
        cookie = "" if request.POST.get("shared") else links.remember_browser(link.digest.mailbox)
    links.release_linked(link, by=visitor.address)
    logger.info("digest_link_used schema=%s link=%d known_by=%s", get_schema(), link.pk, visitor.known_by)
    if visitor.browser:
        visitor.browser.save(update_fields=["used_at"])
    response = HttpResponseRedirect(f"{request.path}?done", status=303)
    if cookie:
        remember(request, response, link, cookie)
    return response


def show_item(request: HttpRequest, link: DigestLink, *, error: str = "") -> HttpResponse:
    recipient = link.recipient
    name, address = wording.read_sender(recipient.message.header_from, recipient.message.sender)
    domain = MailDomain.objects.filter(pk=recipient.domain_id).first()
    zone = domain.time_zone if domain else "UTC"
    context = {
        "link": link,
        "recipient": recipient,
        "name": name,
        "address": address,
        "subject": wording.read_subject(recipient.message.subject),
        "open": recipient.state in OPEN,
        "refused": recipient.state == State.HELD,
        "releasable": links.is_releasable(recipient),
        "arrived": recipient.state in {State.RELEASED, State.DELIVERED},
        "released_at": find_release(link),
        "known": find_visitor(request, link) is not None,
        "spent": link.failed_codes >= links.MAX_WRONG_CODES,
        "error": error,
        "zone": zone,
    }
    with timezone.override(zone):
        return render(request, "links/item.html", context)


def find_release(link: DigestLink) -> datetime:
    """When the item was released last, by whomever."""
    row = link.recipient
    events = Event.objects.filter(message=row.message_id, recipient=row, kind="releasing")
    event = events.order_by("-at").first()
    return event.at if event else row.changed_at


def find_visitor(request: HttpRequest, link: DigestLink) -> Visitor | None:
    """Whoever is signed in and may see the item, or a browser that is remembered for the mailbox."""
    if isinstance(request.user, User) and visible_to(request.user).filter(pk=link.recipient_id).exists():
        return Visitor(request.user.email, "session")
    mailbox = link.digest.mailbox
    browser = links.find_browser(request.COOKIES.get(get_cookie_name(link), ""), mailbox=mailbox)
    return Visitor(mailbox.address, "browser", browser) if browser else None


def check_code(request: HttpRequest, link: DigestLink) -> str:
    """What is wrong with the code that was typed; empty when it is right. What is no code counts as no try."""
    digits = "".join(character for character in request.POST.get("code", "")[:40] if character in "0123456789")
    if len(digits) != links.CODE_DIGITS:
        return INCOMPLETE
    answer = links.check_code(link, digits)
    if answer is CodeAnswer.RIGHT:
        return ""
    count_guess(request)
    return ANSWERS[answer]


def get_cookie_name(link: DigestLink) -> str:
    return f"{COOKIE}{link.digest.mailbox_id}"


def remember(request: HttpRequest, response: HttpResponse, link: DigestLink, secret: str) -> None:
    response.set_cookie(
        get_cookie_name(link),
        secret,
        max_age=links.REMEMBERED_FOR,
        path=reverse("digest_link", args=["x"]).removesuffix("x/"),
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )


def is_guessing(request: HttpRequest) -> bool:
    """Whether too many guesses came from this address. Who is signed in or remembered is not locked out by others."""
    try:
        guesses = int(cache.get(get_guess_key(request), 0))
    except RedisError:
        return False
    return guesses >= MAX_GUESSES and not request.user.is_authenticated and not is_remembered(request)


def is_remembered(request: HttpRequest) -> bool:
    """Whether the browser is remembered for any mailbox."""
    named = [value for name, value in request.COOKIES.items() if name.startswith(COOKIE)]
    return any(links.find_browser(value) for value in named[:5])


def count_guess(request: HttpRequest) -> None:
    try:
        cache.add(get_guess_key(request), 0, GUESS_SECONDS)
        cache.incr(get_guess_key(request))
    except (RedisError, ValueError):  # ValueError: the entry went between the two
        logger.warning("guess_not_counted schema=%s", get_schema())


def get_guess_key(request: HttpRequest) -> str:
    return f"link-guesses:{get_adapter().get_client_ip(request)}"


link_urls = [
    path("d/<str:token>/", digest_link, name="digest_link"),
    re_path(r"^[dD]/(?P<token>.+)$", digest_link),  # as some programs rewrite it
]
