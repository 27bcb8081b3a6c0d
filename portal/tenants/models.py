"""Public schema: who is a tenant, under which hostnames and brand, and which mail domains are theirs."""

from __future__ import annotations

from typing import ClassVar
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin

slug_validator = RegexValidator(r"^[a-z][a-z0-9_]{1,50}$", "Use a-z, 0-9 and _, beginning with a letter.")
colour_validator = RegexValidator(r"^#[0-9a-fA-F]{6}$", "Use a colour such as #0b5fff.")
domain_validator = RegexValidator(
    r"^(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])$",
    "Use a domain in lower case, such as example.com.",
)


def validate_time_zone(value: str) -> None:
    if value not in available_timezones():
        raise ValidationError(f"{value!r} is not a time zone such as Europe/Berlin.")


class ServiceProvider(TenantMixin):
    """A service provider: the tenant. Its schema is `sp_<slug>`."""

    slug = models.CharField(max_length=51, unique=True, validators=[slug_validator])
    name = models.CharField(max_length=100)
    colour = models.CharField(max_length=7, default="#1f4e79", validators=[colour_validator])
    logo = models.BinaryField(null=True, blank=True, max_length=262_144)
    logo_type = models.CharField(max_length=20, blank=True, choices=[("image/png", "PNG"), ("image/jpeg", "JPEG")])
    support = models.CharField(max_length=200, blank=True, help_text="Whom people ask: a phone number or address.")
    send_empty_digests = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    auto_create_schema = True
    auto_drop_schema = False

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        if self.schema_name != "public" and self.schema_name != f"sp_{self.slug}":
            raise ValidationError({"schema_name": "The schema of a provider is sp_<slug>."})


class Hostname(DomainMixin):
    """A hostname that the provider's portal answers to; the primary one is used in links."""


class MailAction(models.TextChoices):
    """What a domain wants done with a category of mail."""

    DELIVER = "deliver", "Deliver"
    TAG = "tag", "Deliver with a mark in the header"
    QUARANTINE = "quarantine", "Hold in quarantine"


class PtrAction(models.TextChoices):
    """What a domain wants done with clients without reverse DNS; empty means as the policy release says."""

    RELEASE = "", "As the policy says"
    OFF = "off", "Ignore"
    SCORE = "score", "Count as a sign of spam"
    QUARANTINE = "quarantine", "Hold in quarantine"
    REFUSE = "refuse", "Refuse"


class RecipientPolicy(models.TextChoices):
    """Which addresses of a domain are taken at RCPT."""

    KNOWN = "known", "Only the mailboxes listed here"
    CALLOUT = "callout", "Those the mail server knows: it is asked"
    ANYONE = "anyone", "Every address; a mailbox is made on its first mail"


class MailDomain(models.Model):
    """A customer's mail domain: its provider, its mail server, and what its admins chose."""

    name = models.CharField(max_length=253, unique=True, validators=[domain_validator])
    provider = models.ForeignKey(ServiceProvider, on_delete=models.PROTECT, related_name="mail_domains")
    server_host = models.CharField(max_length=253, help_text="The customer's mail server.")
    server_port = models.PositiveIntegerField(default=25, validators=[MinValueValidator(1), MaxValueValidator(65535)])
    time_zone = models.CharField(max_length=64, default="UTC", validators=[validate_time_zone])
    digest_hour = models.PositiveSmallIntegerField(default=7, validators=[MaxValueValidator(23)])
    spam_action = models.CharField(max_length=12, choices=MailAction.choices, default=MailAction.QUARANTINE)
    sure_spam_action = models.CharField(max_length=12, choices=MailAction.choices, default=MailAction.QUARANTINE)
    ptr_action = models.CharField(max_length=12, choices=PtrAction.choices, blank=True, default=PtrAction.RELEASE)
    recipient_policy = models.CharField(
        max_length=10,
        choices=RecipientPolicy.choices,
        default=RecipientPolicy.KNOWN,
        db_default=RecipientPolicy.KNOWN.value,
    )
    retention_days = models.PositiveSmallIntegerField(
        default=30,
        db_default=30,
        validators=[MinValueValidator(1), MaxValueValidator(3650)],
        help_text="Days that held mail is kept before it expires.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name
