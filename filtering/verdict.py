"""What was decided, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What is done with a message for a recipient."""

    DELIVER = "deliver"
    TAG = "tag"
    QUARANTINE = "quarantine"
    REFUSE = "refuse"


class Category(StrEnum):
    CLEAN = "clean"
    SPAM = "spam"
    SURE_SPAM = "sure_spam"
    VIRUS = "virus"
    BLOCKED_CONTENT = "blocked_content"
    IMPERSONATION = "impersonation"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Finding:
    """One named, scored, explained observation. `text` is written for the person who asks why.

    `learn` is False for what a policy decides: it never trains anything. `category`, where set, decides
    the verdict by itself, whatever the points; `action` likewise.
    """

    check: str
    points: float
    text: str
    learn: bool = True
    category: Category | None = None
    action: Action | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Action, category, score and findings, with the number of the policy release that judged."""

    action: Action
    category: Category
    score: float
    findings: tuple[Finding, ...]
    policy_release: int
