"""The connecting client's reverse DNS. Only a name that is known to be absent has consequences.

The default policy refuses such a client at RCPT already (`filtering.pipeline.judge_client`); here it is judged for
those recipients who chose otherwise, and for mail that came in all the same.
"""

from __future__ import annotations

from datetime import datetime

from filtering.evidence import Evidence, PtrEvidence, PtrStatus
from filtering.message import InboundMessage
from filtering.policy.values import Policy
from filtering.verdict import Action, Category, Finding

NAME = "reverse_dns"


def check(message: InboundMessage, evidence: Evidence, policy: Policy) -> Finding | None:
    return judge_ptr(message.peer.ip, evidence.ptr, policy, message.received_at)


def judge_ptr(ip: str, ptr: PtrEvidence, policy: Policy, at: datetime) -> Finding | None:
    """What the client's reverse DNS means under this policy at that time. It never teaches the classifier anything.

    Where somebody made an exception for the client, what would have had consequences is only noted; not who made it,
    because every recipient may read this.
    """
    finding = _judge(ip, ptr, policy)
    if finding is None or not (finding.points or finding.action):
        return finding
    exception = policy.find_ptr_exception(ip, at)
    if exception is None:
        return finding
    until = f"{exception.until:%Y-%m-%d %H:%M} UTC"
    text = f"{finding.text.rstrip('.')}; an admin made an exception for {exception.network} until {until}"
    return _make_note(0.0, text)


def _judge(ip: str, ptr: PtrEvidence, policy: Policy) -> Finding | None:
    action = policy.get_ptr_action()
    if action == "off" or ptr.status in {PtrStatus.OK, PtrStatus.SKIPPED}:
        return None
    if ptr.status is PtrStatus.NONE:
        return _judge_absent(ip, action, policy)
    rules = policy.release.ptr
    if ptr.status is PtrStatus.MISMATCH:
        return _make_note(rules.mismatch_points, f"The name {ptr.name} of {ip} does not lead back to it.")
    if ptr.status is PtrStatus.MALFORMED:
        return _make_note(rules.malformed_points, f"The reverse DNS entry of {ip} is no host name.")
    return _make_note(0.0, f"The reverse DNS of {ip} could not be looked up ({ptr.detail or 'no answer'}).")


def _judge_absent(ip: str, action: str, policy: Policy) -> Finding:
    text = f"Could not resolve PTR record for {ip}"
    if action == "score":
        return _make_note(policy.release.ptr.points, text)
    consequence = Action.REFUSE if action == "refuse" else Action.QUARANTINE
    return Finding(NAME, 0.0, text, learn=False, category=Category.POLICY, action=consequence)


def _make_note(points: float, text: str) -> Finding:
    return Finding(NAME, points, text, learn=False)
