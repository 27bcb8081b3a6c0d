"""The policy releases in the database: the one that is live. The first is made by a migration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from filtering.policy.models import PolicyRelease
from filtering.policy.values import ReleasePolicy

LIVE_RELEASE = "SELECT number, content FROM public.policy_policyrelease WHERE is_live"


class UnusableRelease(Exception):
    """Nothing can be judged, so mail is deferred until another release is live. Says why in one word, and which."""

    cause = "unusable"
    number = 0


class NoLiveRelease(UnusableRelease):
    """No release is live."""

    cause = "none_live"


class BrokenRelease(UnusableRelease):
    """The live release cannot be read."""

    cause = "broken"

    def __init__(self, number: int, error: Exception) -> None:
        super().__init__(str(error))
        self.number = number


def get_live() -> ReleasePolicy:
    """The live release as a value. Raises UnusableRelease."""
    return read_live(PolicyRelease.objects.filter(is_live=True).values_list("number", "content"))


def read_live(rows: Iterable[tuple[Any, ...]]) -> ReleasePolicy:
    """The same of what LIVE_RELEASE found."""
    for number, content in rows:
        try:
            return ReleasePolicy.from_content(number, content)
        except (ValueError, TypeError) as error:
            raise BrokenRelease(number, error) from error
    raise NoLiveRelease("No policy release is live.")
