"""What happened to mail, in words for people who know nothing of mail servers."""

from __future__ import annotations

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.evidence.ptr import RULE_OFF
from quarantine.causes import Cause, name_cause
from quarantine.look_ups import name_failure
from quarantine.models import Recipient, State

PTR = {
    "ok": "confirmed",
    "none": "none",
    "unknown": "could not be looked up",
    "mismatch": "does not lead back to the address",
    "malformed": "not a valid name",
    "skipped": "not asked",
}
STATES: dict[State, str] = {
    State.QUARANTINED: "We took it and keep it. If it is wanted, it can be released.",
    State.RELEASING: "It is on its way from quarantine to the recipient's mail server.",
    State.RELEASED: (
        "It was released from quarantine, and the recipient's mail server took it. If it is not in the mailbox, look "
        "there for a junk folder or a rule that moved it."
    ),
    State.DELIVERING: "We took it, and it is on its way to the recipient's mail server.",
    State.DELIVERED: (
        "The recipient's mail server took it. If it is not in the mailbox, look there for a junk folder or a rule that "
        "moved it."
    ),
    State.DEFERRED: (
        "The recipient's mail server did not take it yet. We try again for five days; the last answer is below."
    ),
    State.HELD: ("We took it, but the recipient's mail server refused it. It is kept here and can be tried again."),
    State.EXPIRED: "It was kept for as long as mail of this domain is kept. Its content is gone.",
    State.DELETED: "Somebody deleted it from quarantine. Its content is gone.",
}
ADVICE = {
    Cause.REVERSE_DNS: "Whoever runs the sender's mail server must have a name set for its address.",
    Cause.NO_MAILBOX: "Compare the address with the right one. If it is right, add it as a mailbox or alias.",
    Cause.TOO_BIG: "The sender should send it in parts, or as a link.",
    Cause.LOOP: "The mail goes round between mail servers: look for a forwarding that leads back.",
}


def explain_ptr(status: str, detail: str) -> str:
    """What reverse DNS said; where nobody knows, why not. `detail` is what the resolver said."""
    if status != "unknown" or not detail:
        return PTR.get(status, "")
    why = name_failure(PtrEvidence(PtrStatus.UNKNOWN, detail=detail).failure)
    off = "; the rule was off then, because too many look-ups failed" if detail.endswith(f"; {RULE_OFF}") else ""
    return f"{PTR[status]}: {why}{off}"


def explain(row: Recipient) -> str:
    """What became of it, in a few sentences."""
    cause = name_cause(row.cause) if row.cause else "the reason is in the answer below"
    advice = ADVICE.get(Cause(row.cause), "") if row.cause in Cause.values else ""
    if row.state == State.REFUSED:
        told = "The sender's mail server was told so, and the sender should have got an error message that says it."
        return f"We did not take it: {cause}. {told} {advice}"
    if row.was_put_off:
        told = "Most mail servers do so within minutes, and go on for days: look for a later trace of the same mail."
        return f"The sender's mail server was asked to try again later: {cause}. {told} {advice}"
    if row.state == State.UNFINISHED:
        told = "We have nothing of it. Most mail servers try again: look for a later trace of the same mail."
        return f"The sender's mail server did not finish: {cause}. {told} {advice}"
    return STATES[State(row.state)]
