"""Public schema: what belongs to no provider alone. References and counts, never content."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models.functions import Lower, Now


class Lane(models.TextChoices):
    """Separate queues of the courier, so that a backlog of one never delays another."""

    MAIL = "mail"
    RELEASE = "release"
    DIGEST = "digest"


class DeliveryJob(models.Model):
    """A delivery still to be made: one recipient row of one provider. Deleted in the transaction that ends it."""

    schema = models.CharField(max_length=63)
    recipient_id = models.BigIntegerField()
    domain_id = models.BigIntegerField()  # whose server takes it: the unit of concurrency and of being down
    lane = models.CharField(max_length=10, choices=Lane.choices)
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(db_default=Now())
    claimed_until = models.DateTimeField(null=True, blank=True)  # a claim that runs out is anyone's again
    claimed_by = models.CharField(max_length=64, blank=True, default="", db_default="")

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["schema", "recipient_id"], name="delivery_job_once")]
        indexes: ClassVar = [
            # Destinations with work are found by skipping from one (lane, domain) to the next.
            models.Index(fields=["lane", "domain_id", "due_at", "id"], name="delivery_job_due"),
            models.Index(fields=["claimed_by"], name="delivery_job_claimed", condition=~models.Q(claimed_by="")),
        ]

    def __str__(self) -> str:
        return f"{self.lane} {self.schema}/{self.recipient_id}"

    def is_in_hand(self, at: datetime) -> bool:
        """Whether a courier is about it at that moment."""
        return self.claimed_until is not None and self.claimed_until > at


class Unrouted(models.Model):
    """What reached no provider, for the operator to find: a recipient of a domain that is not ours, or a connection
    that ended before it named a recipient of ours. Alike ones of one moment share a row.
    """

    trace_id = models.CharField(max_length=20)
    at = models.DateTimeField(db_index=True)
    client_ip = models.GenericIPAddressField(null=True)
    ptr_status = models.CharField(max_length=12, blank=True, default="", db_default="")
    ptr_name = models.CharField(max_length=255, blank=True, default="", db_default="")
    ptr_detail = models.CharField(max_length=120, blank=True, default="", db_default="")  # what the resolver said
    ptr_milliseconds = models.PositiveIntegerField(default=0, db_default=0)
    helo = models.CharField(max_length=255, blank=True)
    tls = models.CharField(max_length=60, blank=True, default="", db_default="")
    sender = models.CharField(max_length=320, blank=True)
    recipient = models.CharField(max_length=320, blank=True)
    outcome = models.CharField(max_length=12, default="refused", db_default="refused")  # refused, deferred, unfinished
    cause = models.CharField(max_length=24, blank=True, default="", db_default="")
    reply = models.CharField(max_length=600)  # the last that was given
    replies = models.JSONField(default=list, db_default=[])  # as quarantine.Message.replies
    times = models.PositiveIntegerField(default=1, db_default=1)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["trace_id"], name="unrouted_trace"),
            models.Index(Lower("sender"), models.F("at").desc(), name="unrouted_sender"),
            models.Index(Lower("recipient"), models.F("at").desc(), name="unrouted_recipient"),
            models.Index(fields=["client_ip", "-at"], name="unrouted_client"),
        ]

    def __str__(self) -> str:
        return f"{self.trace_id} {self.reply[:40]}"


class Receipt(models.Model):
    """A message that was taken a short while ago: the same again is the same message. Its time is still to come where
    the sender was not told: that one may take longer.

    The fingerprint is of schema, client, sender, recipients and SHA-256 of the octets.
    """

    fingerprint = models.BinaryField(max_length=32, primary_key=True)
    trace_id = models.CharField(max_length=20)
    at = models.DateTimeField(db_default=Now(), db_index=True)

    def __str__(self) -> str:
        return self.trace_id


class HourlyCount(models.Model):
    """How often something happened in an hour; written in the transaction of the rows it counts. (A message that was
    sent again is counted as new there, and put right by the next.)

    Each place of a host name has rows of its own, so that processes do not wait for each other; hosts of one name share
    them. They are added up when read. The next process in a
    place goes on with its rows, so that restarts make no more.
    """

    hour = models.DateTimeField()
    schema = models.CharField(max_length=63, blank=True, default="")  # empty: it reached no provider
    domain_id = models.BigIntegerField(default=0)  # 0: no domain
    kind = models.CharField(max_length=12)  # accepted, held, refused, deferred, unfinished, repeated, dns_failed, dns
    cause = models.CharField(max_length=24, blank=True, default="")
    instance = models.CharField(max_length=64)
    count = models.PositiveBigIntegerField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["hour", "schema", "domain_id", "kind", "cause", "instance"], name="hourly_count_once"
            )
        ]
        indexes: ClassVar = [models.Index(fields=["schema", "hour"], name="hourly_count_provider")]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.kind} {self.cause}: {self.count}"


class Heartbeat(models.Model):
    """The last sign of life of a process; /healthz reads it."""

    part = models.CharField(max_length=20)  # gateway, courier, worker, beat; retention is no process
    instance = models.CharField(max_length=64)  # host and place, or a slot's name
    at = models.DateTimeField()
    rule_off_since = models.DateTimeField(null=True)  # of a gateway whose reverse DNS rule is off
    lacks_space = models.BooleanField(default=False, db_default=False)  # of a gateway that puts all mail off for it

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["part", "instance"], name="heartbeat_once")]

    def __str__(self) -> str:
        return f"{self.part} {self.instance}"
