"""Why a message is held: the checks in their order, and how their findings become one verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from filtering.checks import classifier, eicar, gtube, reverse_dns, sender_rules, structure
from filtering.evidence import Evidence, PtrEvidence
from filtering.message import InboundMessage
from filtering.policy.values import Policy
from filtering.verdict import Action, Category, ClientRefusal, Finding, Verdict

__all__ = ["CHECKS", "ClientRefusal", "judge", "judge_client"]

Check = Callable[[InboundMessage, Evidence, Policy], Finding | None]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("reverse_dns", reverse_dns.check),
    ("sender_rules", sender_rules.check),
    ("eicar", eicar.check),
    ("gtube", gtube.check),
    ("structure", structure.check),
    ("classifier", classifier.check),
)
# Findings that name a category decide whatever the points say; the first of these that is there.
PRECEDENCE = (
    Category.VIRUS,
    Category.BLOCKED_CONTENT,
    Category.IMPERSONATION,
    Category.POLICY,
    Category.SURE_SPAM,
    Category.SPAM,
    Category.CLEAN,
)
STRICTEST_FIRST = (Action.REFUSE, Action.QUARANTINE, Action.TAG, Action.DELIVER)
MAX_REPLY_BYTES = 512  # a reply line with its CRLF (RFC 5321 4.5.3.1.5)


def judge(message: InboundMessage, evidence: Evidence, policy: Policy) -> Verdict:
    """The verdict for one recipient's policy. Pure: the same input gives the same verdict, for ever."""
    findings = tuple(_run_checks(message, evidence, policy))
    score = round(sum(finding.points for finding in findings), 2)
    decisive = [finding for finding in findings if finding.category is not None]
    category, action = _decide(decisive) if decisive else _decide_by_score(score, policy)
    return Verdict(action, category, score, findings, policy.release.number)


def _run_checks(message: InboundMessage, evidence: Evidence, policy: Policy) -> list[Finding]:
    release = policy.release
    findings = []
    for name, check in CHECKS:
        if name in release.disabled or (finding := check(message, evidence, policy)) is None:
            continue
        is_note = not finding.points and finding.category is None
        points = finding.points if is_note else release.points.get(name, finding.points)
        findings.append(replace(finding, points=points))
    return findings


def _decide(decisive: list[Finding]) -> tuple[Category, Action]:
    """The gravest category, with the strictest action that any finding of it, or of a graver one, asks for."""
    categories = {finding.category for finding in decisive}
    category = next(known for known in PRECEDENCE if known in categories)
    actions = {finding.action for finding in decisive if finding.category is not Category.CLEAN}
    action = next((known for known in STRICTEST_FIRST if known in actions), Action.DELIVER)
    return category, action


def _decide_by_score(score: float, policy: Policy) -> tuple[Category, Action]:
    if score >= policy.release.sure_spam_score:
        return Category.SURE_SPAM, policy.sure_spam_action
    if score >= policy.release.spam_score:
        return Category.SPAM, policy.spam_action
    return Category.CLEAN, Action.DELIVER


def judge_client(ip: str, ptr: PtrEvidence, policy: Policy, at: datetime) -> ClientRefusal | None:
    """Whether the client is refused at RCPT, at that time, before any content; None lets it go on. Pure."""
    if reverse_dns.NAME in policy.release.disabled:
        return None
    finding = reverse_dns.judge_ptr(ip, ptr, policy, at)
    if finding is None or finding.action is not Action.REFUSE:
        return None
    rules = policy.release.ptr
    room = MAX_REPLY_BYTES - len(f"{rules.code} {rules.enhanced} \r\n")
    texts = [_fill_in(rules.text, url, ip) for url in _list_help_urls(ip, policy)]
    text = next((text for text in texts if len(text) <= room), texts[-1])
    return ClientRefusal(rules.code, rules.enhanced, text[:room], finding)


def _list_help_urls(ip: str, policy: Policy) -> list[str]:
    """Where a refusal is explained. Our own page is told the address, unless the reply has no room for that."""
    rules = policy.release.ptr
    url = rules.help_url.replace("{portal}", policy.portal_url)
    is_ours = rules.help_url.startswith("{portal}") and "?" not in url
    return [f"{url}?ip={ip}", url] if is_ours else [url]


def _fill_in(text: str, help_url: str, ip: str) -> str:
    return _make_printable(text.replace("{help_url}", help_url).replace("{ip}", ip))


def _make_printable(text: str) -> str:
    """Printable ASCII: what a reply may hold everywhere (RFC 5321 4.2)."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)
