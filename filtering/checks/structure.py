"""How the message is built. What readers may read in different ways is said, so that it is never clean silently."""

from __future__ import annotations

from filtering.evidence import Evidence
from filtering.message import InboundMessage
from filtering.policy.values import Policy
from filtering.verdict import Finding

NAME = "structure"
ABSENT = ("no From field", "no Date field", "no Message-ID field")  # unusual, and read by all alike


def check(message: InboundMessage, evidence: Evidence, policy: Policy) -> Finding | None:
    """A note of no points; a release may give it some."""
    doubtful = [problem for problem in evidence.content.problems if problem not in ABSENT]
    if not doubtful:
        return None
    return Finding(NAME, 0.0, f"It may be read in more than one way, or not whole: {', '.join(doubtful)}.")
