"""What happened to mail, in words for people who know nothing of mail servers."""

from __future__ import annotations

from quarantine.causes import Cause, name_cause
from quarantine.models import Event, Recipient, State

PTR = {
    "ok": "confirmed",
    "none": "none",
    "unknown": "could not be looked up",
    "mismatch": "does not lead back to the address",
    "malformed": "not a valid name",
    "skipped": "not asked",
}
EVENTS = {
    "accepted": "Taken, to be delivered",
    "held": "Taken, and kept in quarantine",
    "refused": "Refused",
    "unfinished": "The sender's mail server did not finish",
    "sent_again": "Sent again by the sender's mail server",
    "submitted": "Made by us",
    "delivered": "The mail server took it",
    "releasing": "Released: on its way to the mail server",
    "released": "The mail server took it after its release",
    "server_refused": "The mail server refused it",
    "deleted": "Deleted",
    "expired": "Expired",
}
OURS_TO_DEFER = "The sender's mail server was told to try again"
THEIRS_TO_DEFER = "The mail server did not take it yet: we try again"

STATES = {
    State.QUARANTINED: ("In quarantine", "We took it and keep it. If it is wanted, it can be released."),
    State.RELEASING: ("Being released", "It is on its way from quarantine to the recipient's mail server."),
    State.RELEASED: (
        "Released and delivered",
        "It was released from quarantine, and the recipient's mail server took it. If it is not in the mailbox, look "
        "there for a junk folder or a rule that moved it.",
    ),
    State.DELIVERING: ("On its way", "We took it, and it is on its way to the recipient's mail server."),
    State.DELIVERED: (
        "Delivered",
        "The recipient's mail server took it. If it is not in the mailbox, look there for a junk folder or a rule that "
        "moved it.",
    ),
    State.DEFERRED: (
        "On its way, but waiting",
        "The recipient's mail server did not take it yet. We try again for five days; the last answer is below.",
    ),
    State.HELD: (
        "Refused by the recipient's mail server",
        "We took it, but the recipient's mail server refused it. It is kept here and can be tried again.",
    ),
    State.EXPIRED: ("Expired", "It was kept for as long as mail of this domain is kept. Its content is gone."),
    State.DELETED: ("Deleted", "Somebody deleted it from quarantine. Its content is gone."),
}
ADVICE = {
    Cause.REVERSE_DNS: "Whoever runs the sender's mail server must have a name set for its address.",
    Cause.NO_MAILBOX: "Compare the address with the right one. If it is right, add it as a mailbox or alias.",
    Cause.TOO_BIG: "The sender should send it in parts, or as a link.",
    Cause.LOOP: "The mail goes round between mail servers: look for a forwarding that leads back.",
}


def explain(row: Recipient) -> tuple[str, str]:
    """What became of it, in a few words and in a few sentences."""
    cause = name_cause(row.cause) if row.cause else "the reason is in the answer below"
    advice = ADVICE.get(Cause(row.cause), "") if row.cause in Cause.values else ""
    if row.state == State.REFUSED:
        told = "The sender's mail server was told so, and the sender should have got an error message that says it."
        return "Refused", f"We did not take it: {cause}. {told} {advice}"
    if row.was_put_off:
        told = "Most mail servers do so within minutes, and go on for days: look for a later trace of the same mail."
        return "Not taken yet", f"The sender's mail server was asked to try again later: {cause}. {told} {advice}"
    if row.state == State.UNFINISHED:
        told = "We have nothing of it. Most mail servers try again: look for a later trace of the same mail."
        return "Not finished by the sender", f"The sender's mail server did not finish: {cause}. {told} {advice}"
    return STATES[State(row.state)]


def name_event(event: Event, row: Recipient) -> str:
    if event.kind == "deferred":
        return OURS_TO_DEFER if row.state == State.UNFINISHED else THEIRS_TO_DEFER
    return EVENTS.get(event.kind) or event.kind.replace("_", " ").capitalize()
