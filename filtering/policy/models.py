"""Public schema: the numbered, immutable versions of the filtering policy."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models


class PolicyRelease(models.Model):
    """One version of the policy. Its content is never changed; a new version is a new row."""

    number = models.PositiveIntegerField(unique=True)
    content = models.JSONField()  # read by filtering.policy.values.ReleasePolicy
    note = models.CharField(max_length=200, blank=True)
    is_live = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["is_live"], condition=models.Q(is_live=True), name="policy_one_live")
        ]

    def __str__(self) -> str:
        return f"Policy release {self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk and PolicyRelease.objects.filter(pk=self.pk).exclude(content=self.content).exists():
            raise ValueError("A policy release is immutable; make a new one.")
        super().save(*args, **kwargs)
