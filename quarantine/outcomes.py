"""What became of mail: the one vocabulary in which it is counted, measured, searched and told.

`accepted` and `held` say what was decided when the mail came, and are counted so; what became of it since has outcomes
of its own. The states of rows are finer, and older: their words are not shown where an outcome has one.
"""

from __future__ import annotations

from django.db.models import Q, QuerySet, TextChoices

from quarantine.causes import Cause
from quarantine.models import Event, MessageKind, Recipient, State


class Outcome(TextChoices):
    """The word for scripts, and the label for people. docs/operations.md explains each (a test compares)."""

    ACCEPTED = "accepted", "Taken, to be delivered"
    HELD = "held", "Held in quarantine"
    REFUSED = "refused", "Refused"
    DEFERRED = "deferred", "Told to try again"
    UNFINISHED = "unfinished", "Not finished"
    ON_ITS_WAY = "on_its_way", "On its way"
    DELIVERED = "delivered", "Delivered"
    SERVER_REFUSED = "server_refused", "Refused by server"
    GONE = "gone", "Deleted or expired"


COUNTED = (Outcome.ACCEPTED, Outcome.HELD, Outcome.REFUSED, Outcome.DEFERRED, Outcome.UNFINISHED)
TAKEN = ~Q(state__in=[State.REFUSED, State.UNFINISHED])
REFUSED_WHEN_READ = [Cause.LOOP, Cause.POLICY]
WAS_READ = TAKEN | Q(cause__in=REFUSED_WHEN_READ)
WAS_HELD = Q(action__in=["quarantine", "refuse"])  # what cannot be refused for one recipient alone is held
# Of what is unfinished the last reply says who ended it, but for a client that was too slow: see Recipient.was_put_off.
PUT_OFF = Q(reply__startswith="4") & ~Q(cause=Cause.TIMEOUT)
CONDITIONS: dict[str, Q] = {
    Outcome.ACCEPTED: TAKEN & ~WAS_HELD & Q(message__kind=MessageKind.MAIL),
    Outcome.HELD: TAKEN & WAS_HELD,
    Outcome.REFUSED: Q(state=State.REFUSED),
    Outcome.DEFERRED: Q(state=State.UNFINISHED) & PUT_OFF,
    Outcome.UNFINISHED: Q(state=State.UNFINISHED) & ~PUT_OFF,
    Outcome.ON_ITS_WAY: Q(state__in=[State.DELIVERING, State.DEFERRED, State.RELEASING]),
    Outcome.DELIVERED: Q(state__in=[State.DELIVERED, State.RELEASED]),
    Outcome.SERVER_REFUSED: Q(state=State.HELD),
    Outcome.GONE: Q(state__in=[State.DELETED, State.EXPIRED]),
}
BY_STATE = {
    State.QUARANTINED: Outcome.HELD,
    State.RELEASING: Outcome.ON_ITS_WAY,
    State.RELEASED: Outcome.DELIVERED,
    State.DELIVERING: Outcome.ON_ITS_WAY,
    State.DELIVERED: Outcome.DELIVERED,
    State.DEFERRED: Outcome.ON_ITS_WAY,
    State.HELD: Outcome.SERVER_REFUSED,
    State.REFUSED: Outcome.REFUSED,
    State.EXPIRED: Outcome.GONE,
    State.DELETED: Outcome.GONE,
    State.UNFINISHED: Outcome.UNFINISHED,
}
FINER = {State.RELEASING, State.RELEASED, State.DEFERRED, State.EXPIRED, State.DELETED}  # with labels of their own
EVENTS = {  # the others are outcomes
    "sent_again": "Sent again by the sender's mail server",
    "submitted": "Made by us",
    "deferred": "The mail server did not take it yet: we try again",
    "releasing": "Released: on its way to the mail server",
    "released": "Delivered after its release",
    "deleted": "Deleted",
    "expired": "Expired",
}


def get_outcome(row: Recipient) -> Outcome:
    """What has become of the mail for this recipient by now."""
    return Outcome.DEFERRED if row.was_put_off else BY_STATE[State(row.state)]


def was_read(row: Recipient) -> bool:
    """Whether the content came for this recipient. Of one who was not taken before it came, what a message says of its
    content (From, Subject, Message-ID) is of mail that was taken for others.
    """
    return row.state not in {State.REFUSED, State.UNFINISHED} or row.cause in REFUSED_WHEN_READ


def was_sent(row: Recipient) -> bool:
    """Whether content came for this recipient, if it was not read: its size is known."""
    return bool(row.message.size) and (was_read(row) or row.cause == Cause.TOO_BIG)


def name_outcome(row: Recipient) -> str:
    """The same for people; where its state says more, that."""
    return str(State(row.state).label if row.state in FINER else get_outcome(row).label)


def name_event(event: Event, row: Recipient | None) -> str:
    """A line of the trace in a few words. `row`: the recipient whose trace it is."""
    is_ours = row is None or event.recipient_id is None or row.state == State.UNFINISHED  # else the courier was told so
    if event.kind in EVENTS and not (event.kind == Outcome.DEFERRED and is_ours):
        return EVENTS[event.kind]
    return str(Outcome(event.kind).label) if event.kind in Outcome.values else event.kind.replace("_", " ").capitalize()


def list_events(row: Recipient) -> QuerySet[Event]:
    """What happened to it. What happened to the message as a whole did so to those for whom it was taken."""
    whose = Q(recipient=row) | Q(recipient=None) if was_read(row) else Q(recipient=row)
    return Event.objects.filter(whose, message=row.message).order_by("at", "pk")
