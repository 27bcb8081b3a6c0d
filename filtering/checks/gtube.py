"""The Generic Test for Unsolicited Bulk Email: a text that every filter must call spam."""

from __future__ import annotations

from filtering.evidence import Evidence
from filtering.message import InboundMessage
from filtering.policy.values import Policy
from filtering.verdict import Finding

POINTS = 1000.0


def check(message: InboundMessage, evidence: Evidence, policy: Policy) -> Finding | None:
    if not evidence.content.gtube:
        return None
    return Finding("gtube", POINTS, "The text holds the GTUBE test string.")
