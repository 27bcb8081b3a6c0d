"""A provider's schema: its people, their mailboxes, and the senders they allow or block."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.core.validators import MaxValueValidator
from django.db import models


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=(username or "").strip().lower())


class User(AbstractBaseUser):
    """Somebody who signs in at the provider's portal. Mailboxes and domains say what they may see."""

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=100, blank=True)
    is_active = models.BooleanField(default=True)
    is_provider_admin = models.BooleanField(default=False)
    date_joined = models.DateTimeField(auto_now_add=True)

    objects = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    def __str__(self) -> str:
        return self.name or self.email

    @property
    def is_staff(self) -> bool:
        """Nobody of a provider reaches Django's own admin."""
        return False


class DomainAdmin(models.Model):
    """The user looks after the domain. `domain_id` is a public row's id (no key across schemas)."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="administered")
    domain_id = models.BigIntegerField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["user", "domain_id"], name="domain_admin_once")]

    def __str__(self) -> str:
        return f"{self.user} looks after domain {self.domain_id}"


class Mailbox(models.Model):
    """One address and its owner. `domain_id` is the public MailDomain's id."""

    address = models.CharField(max_length=320, unique=True)  # lower case
    domain_id = models.BigIntegerField(db_index=True)
    owner = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True, related_name="mailboxes")
    wants_digest = models.BooleanField(default=True)
    digest_hour = models.PositiveSmallIntegerField(
        null=True, blank=True, validators=[MaxValueValidator(23)], help_text="Empty: the domain's hour."
    )
    next_digest_at = models.DateTimeField(null=True, blank=True, db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["address"]
        verbose_name_plural = "mailboxes"

    def __str__(self) -> str:
        return self.address


class MailboxAlias(models.Model):
    """Another address of the same mailbox."""

    address = models.CharField(max_length=320, unique=True)  # lower case
    mailbox = models.ForeignKey(Mailbox, on_delete=models.CASCADE, related_name="aliases")

    def __str__(self) -> str:
        return self.address


class SenderRule(models.Model):
    """Allow or block a sender (an address, or a whole domain written `@example.com`).

    It holds for a mailbox, for a domain, or (both empty) for the whole provider; the nearest rule wins.
    """

    class Action(models.TextChoices):
        ALLOW = "allow", "Allow"
        BLOCK = "block", "Block"

    action = models.CharField(max_length=5, choices=Action.choices)
    pattern = models.CharField(max_length=320)  # lower case
    mailbox = models.ForeignKey(Mailbox, on_delete=models.CASCADE, null=True, blank=True, related_name="rules")
    domain_id = models.BigIntegerField(null=True, blank=True)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["pattern", "mailbox", "domain_id"], name="sender_rule_once", nulls_distinct=False
            ),
            models.CheckConstraint(
                condition=models.Q(mailbox__isnull=True) | models.Q(domain_id__isnull=True),
                name="sender_rule_one_scope",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["domain_id"], condition=models.Q(mailbox__isnull=True), name="sender_rule_domain")
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.pattern}"


class PtrException(models.Model):
    """Clients of this network are taken without reverse DNS until then, for a domain or (empty) the whole provider.

    Rows are never deleted: they say who granted what, when and why, and who ended it.
    """

    network = models.CharField(max_length=43)  # an address or a network, as ipaddress writes it
    domain_id = models.BigIntegerField(null=True, blank=True)
    until = models.DateTimeField(db_index=True)
    reason = models.CharField(max_length=300)
    created_by = models.CharField(max_length=320)  # a person, by address
    created_at = models.DateTimeField(auto_now_add=True)
    ended_by = models.CharField(max_length=320, blank=True, default="", db_default="")
    ended_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.network} until {self.until:%Y-%m-%d}"
