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
    """Action, category, score and findings, with the number of the policy release that judged.

    `score` counts all findings. `content_score` leaves out what policy decided: only that may ever teach anything.
    """

    action: Action
    category: Category
    score: float
    findings: tuple[Finding, ...]
    policy_release: int

    @property
    def content_score(self) -> float:
        return round(sum(finding.points for finding in self.findings if finding.learn), 2)


@dataclass(frozen=True, slots=True)
class ClientRefusal:
    """Why a client is refused at RCPT, and the reply: code, enhanced code, ASCII text that fits one line."""

    code: int
    enhanced: str
    text: str
    finding: Finding
