"""How a mailbox wants its reports."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django import forms

from portal.tenants.people.models import Mailbox
from portal.web.forms.domains import HOURS


class MailboxForm(forms.ModelForm):  # type: ignore[type-arg]
    digest_hour = forms.TypedChoiceField(
        label="Hour of the daily report", choices=HOURS, coerce=int, empty_value=None, required=False
    )

    class Meta:
        model = Mailbox
        fields: ClassVar = ["wants_digest", "digest_hour"]
        labels: ClassVar = {"wants_digest": "Send a daily report of what is held"}

    def __init__(self, *args: Any, domain_hour: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = cast(forms.ChoiceField, self.fields["digest_hour"])
        field.choices = [("", f"{domain_hour:02d}:00, as for the whole domain"), *HOURS]
