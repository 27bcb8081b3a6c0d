"""The demo's mail server, to look at: what arrived, so that a newcomer can open a digest. No sign-in; demo only."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from heapq import nlargest

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_safe

from filtering.evidence.parts import Part, decode_header, walk
from portal.stack.demo.maildir import Arrival, Maildirs
from portal.stack.demo.world import get_maildirs
from portal.tenants.models import MailDomain, ServiceProvider

MAX_LISTED = 200
MAX_HEADER_BYTES = 65_536
MAX_SHOWN_CHARACTERS = 200_000
# Mail's HTML: no script, nothing from elsewhere, no form; a link opens in the whole window when it is clicked.
SANDBOX = "allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation"
FRAME_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    f"frame-ancestors 'self'; sandbox {SANDBOX}"
)
IMAGE_TYPES = {"image/png", "image/jpeg", "image/gif"}
MAX_IMAGE_BYTES = 262_144
IMAGE_NAME = re.compile(r'"cid:([^"<>\s]{1,200})"')
HEAD = re.compile(r"<head(\s[^>]{0,1000})?>", re.IGNORECASE)
OPEN_ABOVE = '<base target="_top">'


@dataclass(frozen=True)
class Line:
    """A message in the list."""

    arrival: Arrival
    sender: str
    subject: str


def demo_only(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @wraps(view)
    def check(request: HttpRequest, *args: str, **kwargs: str) -> HttpResponse:
        if not settings.DEMO:
            raise Http404
        return require_safe(view)(request, *args, **kwargs)

    return check


@demo_only
def inbox(request: HttpRequest, address: str = "") -> HttpResponse:
    """What arrived for the provider's domains (at no provider's hostname: for all), newest first."""
    maildirs = find_maildirs(request)
    addresses = maildirs.list_addresses()
    if address and address not in addresses:
        raise Http404
    arrivals = (
        item for name in ([address] if address else addresses) for item in maildirs.list_arrivals(name, MAX_LISTED)
    )
    newest = nlargest(MAX_LISTED, arrivals, key=lambda arrival: arrival.at)
    context = {
        "address": address,
        "addresses": [(name, maildirs.count(name)) for name in addresses],
        "lines": [read_line(maildirs, arrival) for arrival in newest],
        "limit": MAX_LISTED,
    }
    return render(request, "demo/inbox.html", context)


@demo_only
def message(request: HttpRequest, address: str, name: str) -> HttpResponse:
    raw = read_mail(request, address, name)
    parts = walk(raw).parts
    text = find_body(parts, "text/plain")
    context = {
        "address": address,
        "name": name,
        "subject": get_header(raw, "subject"),
        "headers": split_header(raw).decode("utf-8", "replace")[:MAX_SHOWN_CHARACTERS],
        "text": text.text[:MAX_SHOWN_CHARACTERS] if text else "",
        "has_html": find_body(parts, "text/html") is not None,
        "attachments": [part for part in parts if part.is_attachment and (part.filename or not is_image(part))],
        "sandbox": SANDBOX,
    }
    return render(request, "demo/message.html", context)


@demo_only
def frame(request: HttpRequest, address: str, name: str) -> HttpResponse:
    """The message's HTML as it is, for a sandboxed frame; its own policy keeps scripts and remote content out."""
    parts = walk(read_mail(request, address, name)).parts
    body = find_body(parts, "text/html")
    if body is None:
        raise Http404
    response = HttpResponse(open_links_above(put_images_in(body.text, parts)))
    response["Content-Security-Policy"] = FRAME_POLICY
    response["X-Frame-Options"] = "SAMEORIGIN"
    response["Cache-Control"] = "no-store"
    return response


@demo_only
def source(request: HttpRequest, address: str, name: str) -> HttpResponse:
    return HttpResponse(read_mail(request, address, name), content_type="text/plain; charset=iso-8859-1")


def find_maildirs(request: HttpRequest) -> Maildirs:
    """The demo's mail as far as this hostname shows it."""
    provider = getattr(request, "tenant", None)
    if not isinstance(provider, ServiceProvider) or provider.schema_name == "public":
        return get_maildirs()
    shown = MailDomain.objects.filter(provider=provider).values_list("name", flat=True)
    return get_maildirs(tuple(shown))


def read_mail(request: HttpRequest, address: str, name: str) -> bytes:
    raw = find_maildirs(request).read(address, name)
    if raw is None:
        raise Http404
    return raw


def read_line(maildirs: Maildirs, arrival: Arrival) -> Line:
    raw = maildirs.read(arrival.address, arrival.name, MAX_HEADER_BYTES) or b""
    return Line(arrival, get_header(raw, "from"), get_header(raw, "subject"))


def get_header(raw: bytes, name: str) -> str:
    found = re.search(rb"^" + name.encode() + rb":((?:[^\n]|\n[ \t]){0,8000})", split_header(raw), re.I | re.M)
    return decode_header(found[1].strip()) if found else ""


def split_header(raw: bytes) -> bytes:
    return re.split(rb"\r?\n\r?\n", raw[:MAX_HEADER_BYTES], maxsplit=1)[0]


def find_body(parts: list[Part], content_type: str) -> Part | None:
    return next((part for part in parts if part.content_type == content_type and not part.is_attachment), None)


def is_image(part: Part) -> bool:
    return part.content_type in IMAGE_TYPES and 0 < len(part.data) <= MAX_IMAGE_BYTES


def put_images_in(html: str, parts: list[Part]) -> str:
    """Show the images that came along (such as a digest's logo): the first named is the first that is there."""
    names = list(dict.fromkeys(found[1] for found in IMAGE_NAME.finditer(html)))
    images = [f"data:{part.content_type};base64,{b64encode(part.data).decode()}" for part in parts if is_image(part)]
    urls = dict(zip(names, images, strict=False))
    return IMAGE_NAME.sub(lambda found: f'"{urls.get(found[1], "")}"', html)


def open_links_above(html: str) -> str:
    """Let links open in the whole window, not within the frame."""
    if found := HEAD.search(html):
        return html[: found.end()] + OPEN_ABOVE + html[found.end() :]
    return f"<!doctype html>{OPEN_ABOVE}{html}"


demo_urls = [
    path("demo/mail/", inbox, name="demo_mail"),
    path("demo/mail/<str:address>/", inbox, name="demo_mailbox"),
    path("demo/mail/<str:address>/<str:name>/", message, name="demo_message"),
    path("demo/mail/<str:address>/<str:name>/html/", frame, name="demo_frame"),
    path("demo/mail/<str:address>/<str:name>/source/", source, name="demo_source"),
]
