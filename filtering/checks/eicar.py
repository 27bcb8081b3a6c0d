"""The EICAR test file: a harmless text that every virus scanner must report."""

from __future__ import annotations

from filtering.evidence import Evidence
from filtering.message import InboundMessage
from filtering.policy.values import Policy
from filtering.verdict import Action, Category, Finding


def check(message: InboundMessage, evidence: Evidence, policy: Policy) -> Finding | None:
    if not (part := evidence.content.eicar):
        return None
    text = f"The part {part!r} holds the EICAR virus test string."
    return Finding("eicar", 0.0, text, category=Category.VIRUS, action=Action.QUARANTINE)
