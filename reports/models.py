"""A provider's schema: every digest that was due, and the links that were printed in it."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models

from portal.tenants.people.models import Mailbox, User
from quarantine.models import Message, Recipient


class Digest(models.Model):
    """One report for one mailbox. A daily one exists once a slot, whatever runs twice."""

    class Kind(models.TextChoices):
        DAILY = "daily", "Daily"
        ON_DEMAND = "on_demand", "On demand"

    class State(models.TextChoices):
        DUE = "due", "Due"
        SENT = "sent", "Handed to the courier"
        SKIPPED = "skipped", "Not sent"

    mailbox = models.ForeignKey(Mailbox, on_delete=models.CASCADE, related_name="digests")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    state = models.CharField(max_length=10, choices=State.choices, default=State.DUE)
    slot_at = models.DateTimeField()  # when it was due; on demand: when it was asked for
    since = models.DateTimeField()
    until = models.DateTimeField()
    held = models.PositiveIntegerField(default=0)  # messages in the report
    # The recipient rows of the window's last hour that were seen: a message that was received before `until`
    # but committed after it is told apart from these by the next report.
    tail = ArrayField(models.BigIntegerField(), default=list, db_default=[])
    reason = models.CharField(max_length=100, blank=True)  # why it was skipped
    message = models.ForeignKey(Message, on_delete=models.SET_NULL, null=True, related_name="+")
    requested_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["mailbox", "slot_at"], condition=models.Q(kind="daily"), name="digest_once_a_slot"
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["slot_at"], name="digest_due", condition=models.Q(state="due")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} digest {self.pk} of {self.mailbox}"


class DigestLink(models.Model):
    """One item's link in one digest. Neither token nor code is stored, only their hashes."""

    digest = models.ForeignKey(Digest, on_delete=models.CASCADE, related_name="links")
    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="+")
    token_hash = models.BinaryField(max_length=32, unique=True)
    code_hash = models.CharField(max_length=128)
    failed_codes = models.PositiveSmallIntegerField(default=0)
    expires_at = models.DateTimeField(db_index=True)
    used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"link {self.pk} of digest {self.digest_id}"


class RememberedBrowser(models.Model):
    """A browser that showed a digest's code once: it may release that mailbox's items by one click."""

    mailbox = models.ForeignKey(Mailbox, on_delete=models.CASCADE, related_name="browsers")
    secret_hash = models.BinaryField(max_length=32, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    used_at = models.DateTimeField(auto_now=True)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"browser {self.pk} of {self.mailbox}"
