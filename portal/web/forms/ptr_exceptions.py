"""The form by which an admin excepts a mail server from the reverse DNS rule for a time."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.core.exceptions import ValidationError

from filtering.policy import ptr_exceptions
from portal.tenants.people.models import PtrException, User
from portal.tenants.provisioning import ProvisioningError
from portal.web.permissions import list_domains

EVERYWHERE = "all"


class PtrExceptionForm(forms.Form):
    """`scope` offers only what the user looks after."""

    network = forms.CharField(
        label="Sending server",
        max_length=100,
        help_text="An address such as 192.0.2.25, or a network of at most /24 (IPv6: /48).",
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )
    scope = forms.ChoiceField(label="For mail to")
    days = forms.TypedChoiceField(
        label="For how long", choices=list(ptr_exceptions.DAYS.items()), coerce=int, initial=7
    )
    reason = forms.CharField(
        label="Why", max_length=ptr_exceptions.MAX_REASON, help_text="Others will read it. Say who asked for it."
    )

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.scopes: dict[str, int | None] = {EVERYWHERE: None} if user.is_provider_admin else {}
        labels = [(EVERYWHERE, "All domains")] if user.is_provider_admin else []
        for domain in list_domains(user).order_by("name"):
            self.scopes[str(domain.pk)] = domain.pk
            labels.append((str(domain.pk), domain.name))
        cast(forms.ChoiceField, self.fields["scope"]).choices = labels

    def clean_network(self) -> str:
        try:
            return ptr_exceptions.parse_network(self.cleaned_data["network"])
        except ProvisioningError as error:
            raise ValidationError(str(error)) from None

    def save(self) -> PtrException | None:
        """The exception; None with an error on the form where it cannot be granted."""
        values = self.cleaned_data
        try:
            return ptr_exceptions.grant(
                values["network"],
                domain_id=self.scopes[values["scope"]],
                days=values["days"],
                reason=values["reason"],
                by=self.user.email,
            )
        except ProvisioningError as error:
            self.add_error(None, str(error))
            return None
