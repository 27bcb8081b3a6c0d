"""A provider's schema: every message, what became of it for each recipient, its content and its trace."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models import Case, When
from django.db.models.functions import Left, Lower, Now

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


LISTED = [State.QUARANTINED, State.HELD, State.RELEASING, State.RELEASED]  # states with lists of their own
INDEXED_LENGTH = 250  # characters of a Message-ID: a B-tree takes no 998
UNTAKEN = "untaken"  # `Recipient.listed` of what is refused or unfinished


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

    trace_id = models.CharField(max_length=20)
    kind = models.CharField(max_length=10, choices=MessageKind.choices, default=MessageKind.MAIL, db_default="mail")
    received_at = models.DateTimeField()
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
        constraints: ClassVar = [models.UniqueConstraint(fields=["trace_id"], name="message_trace_id")]
        indexes: ClassVar = [
            models.Index(Lower("sender"), models.F("received_at").desc(), name="message_sender"),
            models.Index(fields=["client_ip", "-received_at"], name="message_client"),
            models.Index(
                Left("message_id", INDEXED_LENGTH),
                models.F("received_at").desc(),
                name="message_message_id_begins",
                condition=~models.Q(message_id=""),
            ),
        ]

    def __str__(self) -> str:
        return self.trace_id

    @property
    def ptr_detail(self) -> str:
        """What the resolver said, such as why nobody knows the client's name. Empty for mail of our own."""
        ptr = self.evidence.get("ptr") or {}
        return str(ptr.get("detail") or "")


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
    # By which list it is found, if by any. No index looks at `state` itself, so that a delivery, which is most of what
    # happens to rows, writes to none of them (PostgreSQL's heap-only update).
    listed = models.GeneratedField(
        expression=Case(
            When(state__in=LISTED, then=models.F("state")),
            When(state__in=[State.REFUSED, State.UNFINISHED], then=models.Value(UNTAKEN)),
        ),
        output_field=models.CharField(max_length=12, null=True),
        db_persist=True,
    )

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["listed", "mailbox", "-received_at", "-id"],
                name="recipient_listed_mailbox",
                condition=models.Q(listed__in=LISTED),
            ),
            models.Index(
                fields=["listed", "domain_id", "-received_at", "-id"],
                name="recipient_listed_domain",
                condition=models.Q(listed__in=LISTED),
            ),
            models.Index(
                fields=["listed", "-received_at", "-id"],
                name="recipient_listed_all",
                condition=models.Q(listed__isnull=False),
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
    """A line of the trace. The database need not check that its row is there: whoever writes one has just written that
    row, or holds it, or (where a message was sent again) means one of the last day. Retention, which alone deletes
    rows, and only after 90 days, deletes their lines first.
    """

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="events", db_constraint=False)
    recipient = models.ForeignKey(
        Recipient, on_delete=models.DO_NOTHING, null=True, related_name="events", db_constraint=False, db_index=False
    )
    at = models.DateTimeField(db_default=Now())
    kind = models.CharField(max_length=20)  # refused, accepted, held, delivered, deferred, released, deleted, ...
    text = models.CharField(max_length=1000, blank=True, default="", db_default="")
    actor = models.CharField(max_length=320, blank=True, default="", db_default="")

    def __str__(self) -> str:
        return f"{self.kind} {self.text}"
