"""Policy releases: the first one, and what is not read."""

from __future__ import annotations

import pytest

from filtering.policy.models import PolicyRelease
from filtering.policy.releases import BrokenRelease, NoLiveRelease, get_live
from filtering.policy.values import ReleasePolicy


def test_first_release_is_live_and_complete(db: None) -> None:
    row = PolicyRelease.objects.get(is_live=True)

    assert row.number == 1
    assert row.content == ReleasePolicy(1).to_content()
    assert get_live() == ReleasePolicy(1)


def test_nothing_is_judged_without_a_live_release(db: None) -> None:
    PolicyRelease.objects.update(is_live=False)

    with pytest.raises(NoLiveRelease):
        get_live()


def test_a_release_that_cannot_be_read_is_named(db: None) -> None:
    PolicyRelease.objects.update(number=7, content={"spam_scores": 5})

    with pytest.raises(BrokenRelease, match="policy release 7 has unknown fields: spam_scores") as caught:
        get_live()

    assert caught.value.number == 7


def test_content_survives_storing() -> None:
    release = ReleasePolicy(7, points={"gtube": 5.0}, disabled=frozenset({"eicar"}))

    assert ReleasePolicy.from_content(7, release.to_content()) == release


@pytest.mark.parametrize(
    "content",
    [
        {"spam_scores": 5},
        {"ptr": {"actoin": "refuse"}},
        {"ptr": {"action": "destroy"}},
        {"ptr": {"code": 451, "enhanced": "4.7.25"}},
        {"ptr": {"code": 553, "enhanced": "4.3.0"}},
        {"classifier": {"maximum": 3}},
    ],
)
def test_release_with_unknown_or_wrong_fields_is_not_read(content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ReleasePolicy.from_content(8, content)
