"""What templates need beyond Django's own."""

from __future__ import annotations

import re
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
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from quarantine.causes import name_cause
from quarantine.models import Recipient, State
from quarantine.outcomes import name_outcome, was_read, was_sent

register = template.Library()
register.filter("cause", name_cause)
register.filter("outcome", name_outcome)
register.filter("was_read", was_read)


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
def sender_name(row: Recipient) -> str:
    """The name in From, where there is one; else the address."""
    return (parseaddr(row.message.header_from)[0] if was_read(row) else "") or sender_address(row)


@register.filter
def sender_address(row: Recipient) -> str:
    """The address in From; where it has none, or none came for this recipient, the envelope's."""
    header = row.message.header_from if was_read(row) else ""
    address = parseaddr(header)[1]
    return address if "@" in address else header or row.message.sender or "(no sender)"


@register.filter
def breakable(address: str) -> SafeString:
    """An address that is broken, where it is too long for its column, after its @ or a dot rather than anywhere."""
    return format_html_join("", "{}<wbr>", ([part] for part in _PARTS.findall(address)))


_PARTS = re.compile(r"[^@.]*[@.]|[^@.]+")


@register.filter
def subject(row: Recipient) -> str:
    """The subject of the mail; where it has none, or we never saw it, that."""
    if row.message.subject and was_read(row):
        return row.message.subject
    if row.state == State.REFUSED:
        return "(refused when it had been sent)" if was_sent(row) else "(refused before it was sent)"
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
