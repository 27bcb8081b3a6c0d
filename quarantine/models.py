"""A provider's schema: every message, what became of it for each recipient, its content and its trace."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.indexes import HashIndex
from django.db import models
from django.db.models.functions import Lower, Now

from portal.tenants.people.models import Mailbox


class MessageKind(models.TextChoices):
    MAIL = "mail"
    DIGEST = "digest"
    NOTICE = "notice"


class State(models.TextChoices):
    """What became of a message for one recipient. Each state is entered in one function, guarded by the old one."""

    QUARANTINED = "quarantined", "In quarantine"
    RELEASING = "releasing", "Being released"
    RELEASED = "released", "Released"
    DELIVERING = "delivering", "On its way"
    DELIVERED = "delivered", "Delivered"
    DEFERRED = "deferred", "Waiting to be tried again"
    HELD = "held", "Held: the mail server refused it"
    REFUSED = "refused", "Refused"
    EXPIRED = "expired", "Expired"
    DELETED = "deleted", "Deleted"
    UNFINISHED = "unfinished", "Not taken yet: the sender was told, or has, to try again"


class Category(models.TextChoices):
    """Mirrors filtering.verdict.Category (a test holds them together)."""

    CLEAN = "clean", "Clean"
    SPAM = "spam", "Spam"
    SURE_SPAM = "sure_spam", "Sure spam"
    VIRUS = "virus", "Virus"
    BLOCKED_CONTENT = "blocked_content", "Blocked content"
    IMPERSONATION = "impersonation", "Impersonation"
    POLICY = "policy", "Policy"


class Message(models.Model):
    """One SMTP transaction that was accepted or refused, or one mail of our own making."""

    trace_id = models.CharField(max_length=20, unique=True)
    kind = models.CharField(max_length=10, choices=MessageKind.choices, default=MessageKind.MAIL, db_default="mail")
    received_at = models.DateTimeField(db_index=True)
    client_ip = models.GenericIPAddressField(null=True)
    ptr_status = models.CharField(max_length=12, blank=True, default="", db_default="")
    ptr_name = models.CharField(max_length=255, blank=True, default="", db_default="")
    ptr_milliseconds = models.PositiveIntegerField(default=0, db_default=0)
    helo = models.CharField(max_length=255, blank=True)
    tls = models.CharField(max_length=60, blank=True, default="", db_default="")
    sender = models.CharField(max_length=320, blank=True)  # empty: the null reverse-path
    size = models.PositiveIntegerField(default=0, db_default=0)
    sha256 = models.BinaryField(max_length=32, null=True)
    header_from = models.CharField(max_length=500, blank=True, default="", db_default="")
    subject = models.CharField(max_length=500, blank=True, default="", db_default="")
    message_id = models.CharField(max_length=998, blank=True, default="", db_default="")
    evidence = models.JSONField(default=dict, db_default={})
    policy_release = models.PositiveIntegerField(default=0, db_default=0)
    # Every reply of the transaction that concerns this provider, in order: [["RCPT bob@alpha.test", "250 2.1.5 ..."]]
    replies = models.JSONField(default=list, db_default=[])

    class Meta:
        indexes: ClassVar = [
            models.Index(Lower("sender"), models.F("received_at").desc(), name="message_sender"),
            models.Index(fields=["client_ip", "-received_at"], name="message_client"),
            HashIndex(fields=["message_id"], name="message_message_id"),  # longer ones than a B-tree takes
        ]

    def __str__(self) -> str:
        return self.trace_id


class Content(models.Model):
    """The octets as they were received, compressed; kept while any recipient row needs them."""

    class Codec(models.IntegerChoices):
        PLAIN = 0
        ZSTD = 1

    message = models.OneToOneField(Message, on_delete=models.CASCADE, primary_key=True, related_name="content")
    codec = models.PositiveSmallIntegerField(choices=Codec.choices)
    data = models.BinaryField()

    def __str__(self) -> str:
        return f"content of message {self.message_id}"


class Recipient(models.Model):
    """A message for one recipient, with the verdict that the recipient's policy gave."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="recipients")
    address = models.CharField(max_length=320)  # as given at RCPT
    mailbox = models.ForeignKey(Mailbox, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False)
    domain_id = models.BigIntegerField()
    received_at = models.DateTimeField()  # the message's: lists are read by (received_at, id)
    state = models.CharField(max_length=12, choices=State.choices)
    changed_at = models.DateTimeField(db_default=Now())
    changed_by = models.CharField(max_length=320, blank=True, default="", db_default="")  # a person, by address
    action = models.CharField(max_length=12)
    category = models.CharField(max_length=16, choices=Category.choices)
    score = models.FloatField(default=0, db_default=0)
    findings = models.JSONField(default=list, db_default=[])  # [{"check", "points", "text"}]
    policy_release = models.PositiveIntegerField(default=0, db_default=0)
    reply = models.CharField(max_length=600, blank=True, default="", db_default="")  # last SMTP reply, given or got
    cause = models.CharField(max_length=24, blank=True, default="", db_default="")  # of a refusal or deferral of ours
    attempts = models.PositiveIntegerField(default=0, db_default=0)

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["mailbox", "-received_at", "-id"],
                name="recipient_held_mailbox",
                condition=models.Q(state="quarantined"),
            ),
            models.Index(
                fields=["domain_id", "-received_at", "-id"],
                name="recipient_held_domain",
                condition=models.Q(state="quarantined"),
            ),
            models.Index(
                fields=["-received_at", "-id"], name="recipient_held_all", condition=models.Q(state="quarantined")
            ),
            models.Index(
                fields=["domain_id", "changed_at"], name="recipient_refused_domain", condition=models.Q(state="held")
            ),
            models.Index(
                fields=["domain_id", "received_at"],
                name="recipient_released_domain",
                condition=models.Q(state="released"),
            ),
            models.Index(
                fields=["-received_at", "-id"],
                name="recipient_untaken",
                condition=models.Q(state__in=["refused", "unfinished"]),
            ),
            models.Index(fields=["mailbox", "-received_at", "-id"], name="recipient_mailbox"),
            models.Index(fields=["domain_id", "-received_at", "-id"], name="recipient_domain"),
            models.Index(fields=["-received_at", "-id"], name="recipient_all"),
            models.Index(Lower("address"), models.F("received_at").desc(), name="recipient_address"),
        ]

    def __str__(self) -> str:
        return f"{self.message_id} for {self.address}: {self.state}"

    @property
    def was_put_off(self) -> bool:
        """Whether we asked the client to come again. What else is unfinished, the client did not go on with."""
        return self.state == State.UNFINISHED and self.reply.startswith("4") and self.cause != "timeout"


class Event(models.Model):
    """A line of the trace."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="events")
    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, null=True, related_name="events")
    at = models.DateTimeField(db_default=Now())
    kind = models.CharField(max_length=20)  # refused, accepted, held, delivered, deferred, released, deleted, ...
    text = models.CharField(max_length=1000, blank=True, default="", db_default="")
    actor = models.CharField(max_length=320, blank=True, default="", db_default="")

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"
