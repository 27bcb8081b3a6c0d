"""The classifier's opinion in points, within what its experience with the provider's mail allows."""

from __future__ import annotations

import math

from filtering.evidence import Evidence
from filtering.message import InboundMessage
from filtering.policy.values import ClassifierPolicy, Policy
from filtering.verdict import Finding


def check(message: InboundMessage, evidence: Evidence, policy: Policy) -> Finding | None:
    opinion = evidence.classifier
    if not opinion.model:
        return None
    points = get_points(opinion.probability, opinion.lessons, policy.release.classifier)
    text = f"The classifier finds spam {opinion.probability:.1%} likely, after {opinion.lessons} lessons."
    return Finding("classifier", points, text)


def get_points(probability: float, lessons: int, rules: ClassifierPolicy) -> float:
    """Points that grow with the probability; scaled and capped while lessons of the provider are few."""
    trust = min(1.0, lessons / rules.full_lessons) if rules.full_lessons > 0 else 1.0
    over = _get_log_odds(probability) - _get_log_odds(rules.spam_probability)
    points = (rules.spam_points + rules.points_per_log_odds * over) * (rules.new_scale + (1 - rules.new_scale) * trust)
    highest = rules.new_max_points + (rules.max_points - rules.new_max_points) * trust
    return round(max(rules.min_points, min(points, highest)), 2)


def _get_log_odds(probability: float) -> float:
    bounded = max(1e-12, min(probability, 1 - 1e-12))
    return math.log(bounded / (1 - bounded))
