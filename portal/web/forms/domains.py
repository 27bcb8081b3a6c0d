"""A domain's settings: what its admins choose, and what only the provider sets."""

from __future__ import annotations

from typing import Any, ClassVar, cast
from zoneinfo import available_timezones

from django import forms
from django.core.exceptions import ValidationError

from filtering.policy.releases import UnusableRelease, get_live
from portal.tenants.models import MailDomain, PtrAction
from portal.tenants.provisioning import ProvisioningError, parse_mail_address, parse_server

HOURS = [(hour, f"{hour:02d}:00") for hour in range(24)]


def name_release_choice() -> str:
    """What it means to do "as the policy says" about clients without reverse DNS, at present."""
    try:
        action = PtrAction(get_live().ptr.action)
    except (UnusableRelease, ValueError):
        return str(PtrAction.RELEASE.label)
    return f"{PtrAction.RELEASE.label} ({action.label.lower()})"


class DomainForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a domain admin may change."""

    digest_hour = forms.TypedChoiceField(label="Hour of the daily report", choices=HOURS, coerce=int)
    time_zone = forms.ChoiceField(
        label="Time zone", help_text="Times of this domain's mail, and the hour of its reports, are in this zone."
    )

    class Meta:
        model = MailDomain
        fields: ClassVar = [
            "recipient_policy",
            "spam_action",
            "sure_spam_action",
            "ptr_action",
            "digest_hour",
            "time_zone",
        ]
        labels: ClassVar = {
            "recipient_policy": "Addresses that mail is taken for",
            "spam_action": "Spam (score 5 and more)",
            "sure_spam_action": "Sure spam (score 15 and more)",
            "ptr_action": "Senders whose server has no reverse DNS",
        }
        help_texts: ClassVar = {
            "recipient_policy": (
                "Asking keeps the list by itself: a mailbox that the mail server knows is made here on its first mail,"
                " and while the server cannot be asked, senders are told to try again later. Choose every address only"
                " if the mail server sorts out by itself whose they are."
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ptr = cast(forms.ChoiceField, self.fields["ptr_action"])
        ptr.choices = [(PtrAction.RELEASE.value, name_release_choice()), *PtrAction.choices[1:]]
        field = cast(forms.ChoiceField, self.fields["time_zone"])
        field.choices = [(name, name.replace("_", " ")) for name in sorted(available_timezones())]


class AddressForm(forms.Form):
    """An address of the domain, to be asked for. The part before the @ is enough."""

    address = forms.CharField(
        label="Address",
        max_length=320,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, domain: MailDomain, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.domain = domain

    def clean_address(self) -> str:
        typed = str(self.cleaned_data["address"])
        try:
            address = parse_mail_address(typed if "@" in typed else f"{typed}@{self.domain.name}")
        except ProvisioningError as error:
            raise ValidationError(str(error)) from None
        if not address.endswith(f"@{self.domain.name}"):
            raise ValidationError(f"Type an address of {self.domain.name}.")
        return address


class ProviderDomainForm(DomainForm):
    """The same, and the server that the domain's mail goes to: for the provider's admins."""

    server = forms.CharField(
        label="Mail server",
        max_length=260,
        help_text="Where this domain's mail is delivered: host:port, such as mail.example.com:25.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        host = self.instance.server_host
        shown = f"[{host}]" if ":" in host else host
        self.order_fields(["server"])
        self.fields["server"].initial = f"{shown}:{self.instance.server_port}"

    def clean_server(self) -> str:
        typed = str(self.cleaned_data["server"]).strip()
        try:
            address = parse_server(typed)
        except ProvisioningError as error:
            raise ValidationError(str(error)) from None
        self.instance.server_host, self.instance.server_port = address.host, address.port
        return typed
