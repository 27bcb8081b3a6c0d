"""The policy releases in the database: the one that is live. The first is made by a migration."""

from __future__ import annotations

from filtering.policy.models import PolicyRelease
from filtering.policy.values import ReleasePolicy


class NoLiveRelease(Exception):
    """No release is live: nothing can be judged, so mail is deferred until one is."""


def get_live() -> ReleasePolicy:
    """The live release as a value. Raises NoLiveRelease where there is none."""
    row = PolicyRelease.objects.filter(is_live=True).first()
    if row is None:
        raise NoLiveRelease("No policy release is live.")
    return ReleasePolicy.from_content(row.number, row.content)
