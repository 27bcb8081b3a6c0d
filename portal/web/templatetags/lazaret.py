"""What templates need beyond Django's own."""

from __future__ import annotations

from datetime import datetime
from email.utils import parseaddr
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from django import template
from django.contrib.staticfiles import finders
from django.forms import BoundField, CheckboxInput
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import date_format

from quarantine.causes import name_cause
from quarantine.models import Message, Recipient, State
from quarantine.outcomes import name_outcome

register = template.Library()
register.filter("cause", name_cause)
register.filter("outcome", name_outcome)


@lru_cache
def _hash_file(path: str) -> str:
    return sha256(Path(path).read_bytes()).hexdigest()[:10]


@register.simple_tag
def asset(name: str) -> str:
    """A static file's URL, with a hash of its content so that browsers may keep it."""
    found = finders.find(name)
    return f"{static(name)}?v={_hash_file(found)}" if isinstance(found, str) else static(name)


@register.filter
def when(at: datetime | None) -> str:
    """A moment as a person says it, in the time zone that the page has activated."""
    if at is None:
        return ""
    local, now = timezone.localtime(at), timezone.localtime()
    days = (now.date() - local.date()).days
    clock = date_format(local, "H:i")
    if days in {0, 1}:
        return f"{('Today', 'Yesterday')[days]} {clock}"
    if 1 < days < 7:
        return f"{date_format(local, 'D j M')} {clock}"
    return f"{date_format(local, 'j M Y')} {clock}"


@register.filter
def sender_name(message: Message) -> str:
    """The name in From, where there is one; else the address."""
    return parseaddr(message.header_from)[0] or sender_address(message)


@register.filter
def sender_address(message: Message) -> str:
    """The address in From; where it has none, the envelope's."""
    address = parseaddr(message.header_from)[1]
    return address if "@" in address else message.header_from or message.sender or "(no sender)"


@register.filter
def subject(row: Recipient) -> str:
    """The subject of the mail; where it has none, or we never saw it, that."""
    if row.message.subject:
        return row.message.subject
    if row.state == State.REFUSED:
        return "(refused when it had been sent)" if row.message.size else "(refused before it was sent)"
    return "(subject not known)" if row.state == State.UNFINISHED else "(no subject)"


@register.filter
def domain(address: str) -> str:
    """The part after the @."""
    return address.rpartition("@")[2]


@register.filter
def points(value: object) -> str:
    """A finding's points with their sign: +2.5, -1.0; what is no number is not shown."""
    return f"{value:+.1f}" if isinstance(value, int | float) else ""


@register.filter
def is_checkbox(field: BoundField) -> bool:
    return isinstance(field.field.widget, CheckboxInput)
