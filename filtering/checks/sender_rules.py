"""The senders that a mailbox, a domain or a provider allows or blocks. The nearest scope that has a say decides.

A rule speaks of the envelope sender and of the address in From alike, because people see the one and bounces the
other. Within a scope a rule for an address comes before one for its domain, and a block before an allow.
An allow rule makes spam clean. It never lets a virus through, and has no say about the client's reverse DNS: that is
decided at RCPT, before From is known, and From is whatever its writer likes.
"""

from __future__ import annotations

from filtering.evidence import Evidence
from filtering.message import InboundMessage
from filtering.policy.values import Policy, Rule
from filtering.verdict import Action, Category, Finding

NAME = "sender_rules"
NEAREST_FIRST = ("mailbox", "domain", "provider")


def check(message: InboundMessage, evidence: Evidence, policy: Policy) -> Finding | None:
    rule = find_rule(policy.rules, message.sender, evidence.content.from_address)
    if rule is None:
        return None
    whose = f"by a rule of the {rule.scope}"
    if rule.action == "block":
        text = f"{rule.pattern} is blocked {whose}."
        return Finding(NAME, 0.0, text, learn=False, category=Category.POLICY, action=Action.QUARANTINE)
    text = f"{rule.pattern} is allowed {whose}."
    return Finding(NAME, 0.0, text, learn=False, category=Category.CLEAN, action=Action.DELIVER)


def find_rule(rules: tuple[Rule, ...], *senders: str) -> Rule | None:
    """The rule that decides about these addresses."""
    patterns = set()
    for sender in senders:
        local, at, domain = sender.strip().lower().rpartition("@")
        if local and at and domain:
            patterns |= {f"{local}@{domain}", f"@{domain}"}
    matching = [rule for rule in rules if rule.pattern in patterns and rule.scope in NEAREST_FIRST]
    return min(matching, key=_rank, default=None)


def _rank(rule: Rule) -> tuple[int, bool, bool, str]:
    return NEAREST_FIRST.index(rule.scope), rule.pattern.startswith("@"), rule.action != "block", rule.pattern
