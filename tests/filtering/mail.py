"""Messages and evidence for the tests of judging."""

from __future__ import annotations

from datetime import UTC, datetime

from filtering.evidence import ClassifierEvidence, ContentEvidence, Evidence, PtrEvidence, PtrStatus
from filtering.message import InboundMessage, Peer
from filtering.policy.values import Policy, ReleasePolicy, Rule

IP = "192.0.2.25"
ABSENT = PtrEvidence(PtrStatus.NONE, detail="NXDOMAIN")


def make_message(raw: bytes = b"Subject: hello\r\n\r\nhello\r\n", *, sender: str = "ann@sender.test") -> InboundMessage:
    return InboundMessage("0" * 20, raw, sender, Peer(IP), datetime(2026, 1, 1, tzinfo=UTC))


def make_evidence(
    *,
    ptr: PtrEvidence | None = None,
    probability: float = 0.5,
    lessons: int = 0,
    model: str = "",
    **content: object,
) -> Evidence:
    return Evidence(
        ptr or PtrEvidence(PtrStatus.OK, "mail.sender.test"),
        ContentEvidence(**content),  # type: ignore[arg-type]
        ClassifierEvidence(probability, lessons, model),
    )


def make_policy(*rules: tuple[str, str, str], **choices: object) -> Policy:
    release = choices.pop("release", None) or ReleasePolicy(1)
    return Policy(release, tuple(Rule(*rule) for rule in rules), **choices)  # type: ignore[arg-type]
