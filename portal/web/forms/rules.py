"""What people type about senders: an address, or a whole domain."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from portal.tenants.models import MailDomain, domain_validator
from portal.tenants.people.models import Mailbox, SenderRule, User
from portal.tenants.provisioning import ProvisioningError, parse_mail_address
from portal.web.permissions import list_domains, list_own_mailboxes

MAX_LISTED_MAILBOXES = 100
Scope = tuple[Mailbox | None, int | None]


def parse_pattern(text: str) -> str:
    """`a@example.com` or `@example.com`, in the form in which rules are kept. Raises ValidationError."""
    typed = text.strip().strip("<>").lower()
    local, at, domain = typed.rpartition("@")
    domain = domain.rstrip(".")
    if not domain.isascii():
        domain = _to_ascii(domain)
    try:
        domain_validator(domain)
    except ValidationError:
        raise ValidationError("Type an address such as name@example.com, or a domain such as example.com.") from None
    if not local:
        return f"@{domain}"
    try:
        return parse_mail_address(f"{local}{at}{domain}")
    except ProvisioningError:
        raise ValidationError(f"“{text.strip()}” is not a mail address such as name@example.com.") from None


def _to_ascii(domain: str) -> str:
    try:
        return domain.encode("idna").decode()
    except UnicodeError:
        raise ValidationError("That domain has characters that no domain may have.") from None


class RuleForm(forms.Form):
    """Add a rule. `scope` offers only what the user looks after."""

    pattern = forms.CharField(
        label="Sender",
        max_length=320,
        help_text="An address such as name@example.com, or a whole domain such as example.com.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )
    action = forms.ChoiceField(label="What to do", choices=SenderRule.Action.choices)
    scope = forms.ChoiceField(label="For")

    def __init__(self, user: User, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.scopes = get_scopes(user)
        field = cast(forms.ChoiceField, self.fields["scope"])
        field.choices = [(key, label) for key, (label, _) in self.scopes.items()]
        if len(self.scopes) == 1:
            field.widget = forms.HiddenInput()
            field.initial = next(iter(self.scopes))

    def clean_pattern(self) -> str:
        return parse_pattern(self.cleaned_data["pattern"])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        pattern, scope = cleaned.get("pattern"), cleaned.get("scope")
        if pattern and scope:
            mailbox, domain_id = self.scopes[scope][1]
            taken = SenderRule.objects.filter(pattern=pattern, mailbox=mailbox, domain_id=domain_id).first()
            if taken:
                word = "allowed" if taken.action == SenderRule.Action.ALLOW else "blocked"
                self.add_error("pattern", f"{pattern} is {word} already. Remove that rule first to change it.")
        return cleaned

    def save(self) -> SenderRule:
        mailbox, domain_id = self.scopes[self.cleaned_data["scope"]][1]
        return SenderRule.objects.create(
            action=self.cleaned_data["action"],
            pattern=self.cleaned_data["pattern"],
            mailbox=mailbox,
            domain_id=domain_id,
            created_by=self.user,
        )


def get_scopes(user: User) -> dict[str, tuple[str, Scope]]:
    """What the user may make rules for: key -> (label, (mailbox, domain id)); the widest comes first."""
    scopes: dict[str, tuple[str, Scope]] = {}
    if user.is_provider_admin:
        scopes["all"] = ("All domains", (None, None))
    domains: QuerySet[MailDomain] = list_domains(user)
    scopes |= {f"d{domain.pk}": (f"Everybody at {domain.name}", (None, domain.pk)) for domain in domains}
    mailboxes = list_own_mailboxes(user)[:MAX_LISTED_MAILBOXES]
    return scopes | {f"m{mailbox.pk}": (f"My mailbox {mailbox.address}", (mailbox, None)) for mailbox in mailboxes}
