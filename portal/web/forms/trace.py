"""What somebody knows of a mail: in one box, or more exactly beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.text import capfirst

from quarantine.look_ups import SEARCHED
from quarantine.outcomes import Outcome
from quarantine.wanted import CAUSES, MAX_TEXT, NotUnderstoodError, Wanted, read_client, read_party, recognise

DETAILS = ("sender", "recipient", "client", "since", "until", "outcome", "cause", "reverse_dns")


class KnownField(forms.CharField):
    """Something typed that is understood or refused with a sentence."""

    def __init__(self, read: Callable[[str], Any], **options: Any) -> None:
        super().__init__(required=False, **options)
        self.read = read

    def clean(self, value: Any) -> Any:
        text = super().clean(str(value or "").replace("\0", ""))
        if not text:
            return None
        try:
            return self.read(text)
        except NotUnderstoodError as error:
            raise ValidationError(str(error)) from error


class MomentField(KnownField):
    """A moment; links say it in UTC, people in the current time zone."""

    def __init__(self, label: str) -> None:
        picker = forms.DateTimeInput(attrs={"type": "datetime-local"})
        super().__init__(read_moment, label=label, max_length=40, widget=picker)

    def prepare_value(self, value: Any) -> Any:
        """As the browser's picker takes it."""
        try:
            return timezone.localtime(read_moment(str(value))).strftime("%Y-%m-%dT%H:%M")
        except NotUnderstoodError:
            return value


def read_moment(text: str) -> datetime:
    """A moment, in the current time zone unless it says."""
    try:
        at = parse_datetime(text)
    except ValueError:
        at = None
    if at is None or not 1970 <= at.year < 3000:  # what any zone and PostgreSQL can reckon with
        raise NotUnderstoodError("Type a date and a time.")
    return at if timezone.is_aware(at) else timezone.make_aware(at)


def _make_address(label: str, text: str) -> KnownField:
    plain = forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"})
    return KnownField(read_party, label=label, max_length=320, help_text=text, widget=plain)


class TraceForm(forms.Form):
    """Read in the viewer's time zone: `wanted` is what is looked for, None while nothing is."""

    q = KnownField(
        recognise, label="Trace id, Message-ID, address (or two), @domain, or sending server", max_length=MAX_TEXT
    )
    sender = _make_address("Sender", "An address, or @example.com for a whole domain.")
    recipient = _make_address("Recipient", "An address, or @ and one of your domains.")
    client = KnownField(read_client, label="Sending server", max_length=60, help_text="Its IP address, or a network.")
    since = MomentField("Since")
    until = MomentField("Before")
    outcome = forms.ChoiceField(label="What became of it", required=False, choices=[("", "Anything"), *Outcome.choices])
    cause = forms.ChoiceField(
        label="Why it was not taken",
        required=False,
        choices=[("", "Any reason"), *((cause.value, capfirst(cause.label)) for cause in CAUSES)],
    )
    reverse_dns = forms.ChoiceField(
        label="Reverse DNS of the server",
        required=False,
        choices=[("", "Whatever it was"), *((word, capfirst(text)) for word, text in SEARCHED.items())],
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("since", "until"):
            self.fields[name].help_text = f"In the time zone {timezone.get_current_timezone_name()}."

    @property
    def has_details(self) -> bool:
        return any(self.data.get(name) for name in DETAILS)

    @property
    def wanted(self) -> Wanted | None:
        if not self.is_valid():
            return None
        given = {name: self.cleaned_data[name] for name in DETAILS if self.cleaned_data[name]}
        wanted = (self.cleaned_data["q"] or Wanted()).also(**given)
        if self.data.get("from") == "1" and wanted.party:
            wanted = wanted.in_header()
        return None if wanted.is_anything else wanted
