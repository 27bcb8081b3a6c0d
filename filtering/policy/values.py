"""The policy as values: what a release says, and what a recipient's people chose. Needs no framework."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from datetime import datetime
from functools import lru_cache
from typing import Any

from filtering.verdict import Action

PTR_ACTIONS = ("off", "score", "quarantine", "refuse")


@dataclass(frozen=True, slots=True)
class PtrPolicy:
    """What is done about a client without reverse DNS. Texts and codes are fields of the release.

    `text` may hold {ip} and {help_url}. `help_url` may begin with {portal}, the provider's own site, whose page is told
    the client's address.
    """

    action: str = "refuse"  # off, score, quarantine, refuse
    code: int = 553
    enhanced: str = "5.3.0"
    text: str = (
        "Message rejected. The sending server has no reverse DNS entry; see {help_url} for what to do. "
        "Reason: (1) Could not resolve PTR record for {ip}"
    )
    points: float = 2.0  # where the action is score
    mismatch_points: float = 0.5  # a name that does not lead back
    malformed_points: float = 0.5  # a name that is none
    help_url: str = "{portal}/help/reverse-dns"

    def __post_init__(self) -> None:
        if self.action not in PTR_ACTIONS:
            raise ValueError(f"the action for clients without reverse DNS is {self.action!r}")
        if self.code not in range(500, 600) or not self.enhanced.startswith("5."):
            raise ValueError("a refusal has a code 5xx and an enhanced code 5.x.x (RFC 2034 4)")


@dataclass(frozen=True, slots=True)
class ClassifierPolicy:
    """What the classifier's probability is worth in points, and how far it is trusted while it is new to a provider.

    `spam_probability` earns exactly the points that `spam_points` says; each further unit of log-odds earns
    `points_per_log_odds`. With no lessons of the provider points are scaled by `new_scale` and end at
    `new_max_points`; both grow to the full range in proportion, until `full_lessons` were taken.
    """

    spam_probability: float = 0.8
    spam_points: float = 5.0
    points_per_log_odds: float = 2.8
    min_points: float = -3.0
    max_points: float = 20.0
    new_max_points: float = 4.0
    new_scale: float = 0.4
    full_lessons: int = 800


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """One policy release: numbered, immutable, the same for everybody it judges."""

    number: int
    spam_score: float = 5.0
    sure_spam_score: float = 15.0
    ptr: PtrPolicy = field(default_factory=PtrPolicy)
    classifier: ClassifierPolicy = field(default_factory=ClassifierPolicy)
    points: Mapping[str, float] = field(default_factory=dict)  # points by name of a check, over its default
    disabled: frozenset[str] = frozenset()  # checks switched off by name

    @classmethod
    def from_content(cls, number: int, content: Mapping[str, Any]) -> ReleasePolicy:
        """Read a release's stored content; unknown fields are an error (ValueError), missing ones default."""
        fields = _check_fields(cls, content, f"policy release {number}")
        fields.pop("number", None)
        if "ptr" in fields:
            fields["ptr"] = PtrPolicy(**_check_fields(PtrPolicy, fields["ptr"], "ptr"))
        if "classifier" in fields:
            fields["classifier"] = ClassifierPolicy(
                **_check_fields(ClassifierPolicy, fields["classifier"], "classifier")
            )
        if "disabled" in fields:
            fields["disabled"] = frozenset(fields["disabled"])
        return cls(number=number, **fields)

    def to_content(self) -> dict[str, Any]:
        """The stored content of this release, every field of it."""
        content = asdict(self)
        del content["number"]
        return content | {"points": dict(self.points), "disabled": sorted(self.disabled)}


def _check_fields(kind: type[Any], content: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {known.name for known in fields_of(kind)}
    if unknown := set(content) - known:
        raise ValueError(f"{where} has unknown fields: {', '.join(sorted(unknown))}")
    return dict(content)


@dataclass(frozen=True, slots=True)
class Rule:
    """An allow or block rule. `scope` is mailbox, domain or provider; the nearest scope wins."""

    scope: str
    action: str  # allow, block
    pattern: str  # address, or @domain; lower case


@dataclass(frozen=True, slots=True)
class PtrException:
    """Clients of the network are taken whatever their reverse DNS is, until then."""

    network: str
    until: datetime

    def holds(self, ip: str, at: datetime) -> bool:
        return at < self.until and ipaddress.ip_address(ip) in _parse_network(self.network)


@lru_cache(maxsize=1024)
def _parse_network(network: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(network)


@dataclass(frozen=True, slots=True)
class Policy:
    """All that `judge` is told besides message and evidence: the release, and the recipient's choices."""

    release: ReleasePolicy
    rules: tuple[Rule, ...] = ()
    spam_action: Action = Action.QUARANTINE
    sure_spam_action: Action = Action.QUARANTINE
    ptr_action: str = ""  # the domain's own choice; empty: as the release says
    ptr_exceptions: tuple[PtrException, ...] = ()
    portal_url: str = ""  # the provider's site, without a slash at the end; for the help page that a refusal names

    def get_ptr_action(self) -> str:
        """What is done about a client without reverse DNS: the domain's choice, else the release's."""
        return self.ptr_action or self.release.ptr.action

    def find_ptr_exception(self, ip: str, at: datetime) -> PtrException | None:
        """The exception from the reverse DNS rule that holds for this client at that time: the one that ends last."""
        holding = (exception for exception in self.ptr_exceptions if exception.holds(ip, at))
        return max(holding, key=lambda exception: exception.until, default=None)
