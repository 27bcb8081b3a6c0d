"""What was observed about a message and its sender: values only. The look-ups are the modules beside this one."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class PtrStatus(StrEnum):
    """What reverse DNS said about the client's address."""

    OK = "ok"  # a name, and it leads back to the address
    NONE = "none"  # NXDOMAIN or an empty answer: no PTR
    UNKNOWN = "unknown"  # SERVFAIL, REFUSED, timeout, truncated, bogus: nobody knows
    MISMATCH = "mismatch"  # a name that does not lead back to the address
    MALFORMED = "malformed"  # a name that is none
    SKIPPED = "skipped"  # private, loopback or a relay of our own: not asked


@dataclass(frozen=True, slots=True)
class PtrEvidence:
    status: PtrStatus = PtrStatus.SKIPPED
    name: str = ""
    milliseconds: int = 0
    detail: str = ""  # what the resolver said, for the trace

    @property
    def failure(self) -> str:
        """Why the look-up told nothing, as it is counted, such as servfail, refused or timeout; empty where it did."""
        if self.status is not PtrStatus.UNKNOWN:
            return ""
        said = self.detail.partition("; ")[0].rpartition(": ")[2]
        return said.lower().replace(" ", "_") or PtrStatus.UNKNOWN.value


NOT_KNOWN_YET = PtrEvidence(PtrStatus.UNKNOWN, detail="not known yet")  # the look-up has not ended: it did not fail


@dataclass(frozen=True, slots=True)
class ContentEvidence:
    """What could be read of the message. Strings are safe to store (no NUL, no lone surrogate) and bounded."""

    header_from: str = ""  # decoded From, as a person would see it
    from_address: str = ""  # the address in it, lower case; empty where there is none
    subject: str = ""
    message_id: str = ""
    gtube: bool = False
    eicar: str = ""  # name of the part that holds the EICAR string, or "body"
    parts: int = 0
    problems: tuple[str, ...] = ()  # what was out of the ordinary, e.g. "too many parts"


@dataclass(frozen=True, slots=True)
class ClassifierEvidence:
    """What the classifier says: probability of spam, and how many lessons of this provider it has had."""

    probability: float = 0.5
    lessons: int = 0
    model: str = ""  # which weights; empty: no classifier was there


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that `judge` is shown besides the message. Stored, so that a verdict can be judged again."""

    ptr: PtrEvidence = field(default_factory=PtrEvidence)
    content: ContentEvidence = field(default_factory=ContentEvidence)
    classifier: ClassifierEvidence = field(default_factory=ClassifierEvidence)

    def to_json(self) -> dict[str, Any]:
        return {name: _list_fields(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Evidence:
        ptr, content = dict(stored["ptr"]), dict(stored["content"])
        ptr["status"] = PtrStatus(ptr["status"])
        content["problems"] = tuple(content["problems"])
        return cls(PtrEvidence(**ptr), ContentEvidence(**content), ClassifierEvidence(**stored["classifier"]))


def _list_fields(part: Any) -> dict[str, Any]:
    """As dataclasses.asdict, without its deep copies: once a message."""
    return {name: getattr(part, name) for name in part.__slots__}
