"""The policy releases in the database: the one that is live, and the first of all."""

from __future__ import annotations

from filtering.policy.models import PolicyRelease
from filtering.policy.values import ReleasePolicy

FIRST_RELEASE = 1
FIRST_NOTE = "The first policy: clients without reverse DNS are refused, spam is held from 5 points on."


class NoLiveRelease(Exception):
    """No release is live: nothing can be judged, so mail is deferred until one is."""


def get_live() -> ReleasePolicy:
    """The live release as a value. Raises NoLiveRelease where there is none."""
    row = PolicyRelease.objects.filter(is_live=True).first()
    if row is None:
        raise NoLiveRelease("No policy release is live.")
    return ReleasePolicy.from_content(row.number, row.content)


def ensure_first_release() -> ReleasePolicy:
    """The live release; where there is no release at all, the first one is made and put live."""
    if not PolicyRelease.objects.exists():
        content = ReleasePolicy(number=FIRST_RELEASE).to_content()
        PolicyRelease.objects.get_or_create(
            number=FIRST_RELEASE, defaults={"content": content, "note": FIRST_NOTE, "is_live": True}
        )
    return get_live()
