"""Public schema: what belongs to no provider alone. References and counts, never content."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now


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


class UnroutedRefusal(models.Model):
    """A recipient refused that belongs to no provider (relay denied): for the operator to find."""

    trace_id = models.CharField(max_length=20, db_index=True)
    at = models.DateTimeField(db_index=True)
    client_ip = models.GenericIPAddressField(null=True)
    ptr_status = models.CharField(max_length=12, blank=True, default="", db_default="")
    helo = models.CharField(max_length=255, blank=True)
    sender = models.CharField(max_length=320, blank=True)
    recipient = models.CharField(max_length=320, blank=True)
    reply = models.CharField(max_length=600)

    def __str__(self) -> str:
        return f"{self.trace_id} {self.reply[:40]}"


class Heartbeat(models.Model):
    """The last sign of life of a process; /healthz reads it."""

    part = models.CharField(max_length=20)  # gateway, courier, worker, beat
    instance = models.CharField(max_length=64)  # host:pid, or a slot's name
    at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["part", "instance"], name="heartbeat_once")]

    def __str__(self) -> str:
        return f"{self.part} {self.instance}"
