"""The policy as values: what a release says, and what a recipient's people chose. Needs no framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from filtering.verdict import Action


@dataclass(frozen=True, slots=True)
class PtrPolicy:
    """What is done about a client without reverse DNS. Texts and codes are fields of the release.

    `text` may hold {ip} and {help_url}.
    """

    action: str = "refuse"  # off, score, quarantine, refuse
    code: int = 553
    enhanced: str = "5.3.0"
    text: str = (
        "Message rejected. The sending server has no reverse DNS entry; see {help_url} for what to do. "
        "Reason: (1) Could not resolve PTR record for {ip}"
    )
    points: float = 2.0
    help_url: str = ""


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """One policy release: numbered, immutable, the same for everybody it judges."""

    number: int
    spam_score: float = 5.0
    sure_spam_score: float = 15.0
    ptr: PtrPolicy = field(default_factory=PtrPolicy)
    points: Mapping[str, float] = field(default_factory=dict)  # points by name of a check, over its default
    disabled: frozenset[str] = frozenset()  # checks switched off by name

    @classmethod
    def from_content(cls, number: int, content: Mapping[str, Any]) -> ReleasePolicy:
        """Read a release's stored content; unknown fields are an error (ValueError), missing ones default."""
        known = {"spam_score", "sure_spam_score", "ptr", "points", "disabled"}
        if unknown := set(content) - known:
            raise ValueError(f"policy release {number} has unknown fields: {', '.join(sorted(unknown))}")
        fields = dict(content)
        if "ptr" in fields:
            fields["ptr"] = PtrPolicy(**fields["ptr"])
        if "disabled" in fields:
            fields["disabled"] = frozenset(fields["disabled"])
        return cls(number=number, **fields)


@dataclass(frozen=True, slots=True)
class Rule:
    """An allow or block rule. `scope` is mailbox, domain or provider; the nearest scope wins."""

    scope: str
    action: str  # allow, block
    pattern: str  # address, or @domain; lower case


@dataclass(frozen=True, slots=True)
class Policy:
    """All that `judge` is told besides message and evidence: the release, and the recipient's choices."""

    release: ReleasePolicy
    rules: tuple[Rule, ...] = ()
    spam_action: Action = Action.QUARANTINE
    sure_spam_action: Action = Action.QUARANTINE
    ptr_action: str = ""  # the domain's own choice; empty: as the release says
