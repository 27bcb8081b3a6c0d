"""What commands say about messages: as JSON, and as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.utils import timezone

from portal.tenants.models import ServiceProvider
from quarantine.causes import name_cause
from quarantine.models import Event, Message, MessageKind, Recipient
from quarantine.outcomes import Outcome, get_outcome, name_event, name_outcome, was_read
from quarantine.platform.models import DeliveryJob, Unrouted
from quarantine.queries import list_next_tries
from quarantine.said import find_answer, read_said

Line = dict[str, Any]
OF_CONNECTION = ("ptr_status", "ptr_name", "ptr_detail", "ptr_milliseconds", "helo", "tls", "replies")
NOTHING_MORE: Line = {  # what a record of a recipient has besides
    **dict.fromkeys(("kind", "sha256", "from", "subject", "message_id"), ""),
    **dict.fromkeys(("state", "changed_at", "changed_by", "action", "category"), ""),
    "size": 0,
    "score": 0.0,
    "policy_release": 0,
    "attempts": 0,
    "next_try": "",
    "being_tried": False,
    "findings": [],
    "events": [],
}


def show(value: object) -> str:
    """A value that strangers wrote, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def show_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def show_iso(at: str) -> str:
    return f"{show_time(datetime.fromisoformat(at))} UTC"


def make_message(provider: ServiceProvider, message: Message) -> dict[str, Any]:
    """All that is known of a message: as its provider's people may see it."""
    told = {"provider": provider.slug, "received_at": message.received_at.isoformat(), "sender": message.sender}
    recipients = sorted(message.recipients.all(), key=lambda row: row.pk)
    tries = list_next_tries(recipients)
    return (
        told
        | make_facts(message)
        | {
            "recipients": [
                make_recipient(row, tries.get(row.pk))
                | {"was_judged": message.kind == MessageKind.MAIL and was_read(row)}
                for row in recipients
            ],
            "events": make_events(message, recipients),
        }
    )


def make_facts(message: Message) -> dict[str, Any]:
    """What is the same for all recipients of it."""
    return {
        "kind": message.kind,
        "client_ip": message.client_ip or "",
        "ptr_status": message.ptr_status,
        "ptr_name": message.ptr_name,
        "ptr_detail": message.ptr_detail,
        "ptr_milliseconds": message.ptr_milliseconds,
        "helo": message.helo,
        "tls": message.tls,
        "size": message.size,
        "sha256": bytes(message.sha256 or b"").hex(),
        "from": message.header_from,
        "subject": message.subject,
        "message_id": message.message_id,
        "replies": message.replies,
    }


def make_recipient(recipient: Recipient, job: DeliveryJob | None) -> dict[str, Any]:
    """`job`: its delivery that is still to be made."""
    return {
        "address": recipient.address,
        "outcome": get_outcome(recipient).value,
        "label": name_outcome(recipient),
        "state": recipient.state,
        "changed_at": recipient.changed_at.isoformat(),
        "changed_by": recipient.changed_by,
        "action": recipient.action,
        "category": recipient.category,
        "score": recipient.score,
        "findings": recipient.findings,
        "policy_release": recipient.policy_release,
        "reply": recipient.reply,
        "cause": recipient.cause,
        "attempts": recipient.attempts,
        "next_try": job.due_at.isoformat() if job else "",
        "being_tried": job is not None and job.is_in_hand(timezone.now()),
    }


def make_events(message: Message, recipients: Iterable[Recipient]) -> list[dict[str, Any]]:
    """What happened, in order, to those recipients and to the message as a whole."""
    by_id = {recipient.pk: recipient for recipient in recipients}
    events = [event for event in message.events.all() if event.recipient_id in {None, *by_id}]
    events.sort(key=lambda event: (event.at, event.pk))
    return [make_event(event, by_id.get(event.recipient_id or 0)) for event in events]


def make_event(event: Event, recipient: Recipient | None) -> dict[str, Any]:
    return {
        "at": event.at.isoformat(),
        "kind": event.kind,
        "label": name_event(event, recipient),
        "recipient": recipient.address if recipient else "",
        "text": event.text,
        "actor": event.actor,
    }


def make_unrouted(refusal: Unrouted) -> dict[str, Any]:
    return {
        "at": refusal.at.isoformat(),
        "client_ip": refusal.client_ip or "",
        "ptr_status": refusal.ptr_status,
        "ptr_name": refusal.ptr_name,
        "ptr_detail": refusal.ptr_detail,
        "ptr_milliseconds": refusal.ptr_milliseconds,
        "helo": refusal.helo,
        "tls": refusal.tls,
        "sender": refusal.sender,
        "recipient": refusal.recipient,
        "outcome": refusal.outcome,
        "cause": refusal.cause,
        "reply": refusal.reply,
        "replies": refusal.replies,
        "times": refusal.times,
    }


def make_line(slug: str, recipient: Recipient) -> Line:
    """What a list says of one recipient."""
    message = recipient.message
    return {
        "at": recipient.received_at.isoformat(),
        "trace_id": message.trace_id,
        "provider": slug,
        "outcome": get_outcome(recipient).value,
        "cause": recipient.cause,
        "client_ip": message.client_ip or "",
        "sender": message.sender,
        "recipient": recipient.address,
        "reply": recipient.reply,
        "times": 1,
    }


def make_unrouted_line(refusal: Unrouted) -> Line:
    told = make_unrouted(refusal)
    line = {
        name: told[name] for name in ("at", "outcome", "cause", "client_ip", "sender", "recipient", "reply", "times")
    }
    return line | {"trace_id": refusal.trace_id, "provider": ""}


def make_record(slug: str, recipient: Recipient, job: DeliveryJob | None) -> Line:
    """All that is known of one recipient of a message: for scripts. Every record has the same keys."""
    told = make_line(slug, recipient) | make_recipient(recipient, job) | make_facts(recipient.message)
    del told["address"]  # the line has it as `recipient`
    return told | {"events": make_events(recipient.message, [recipient])}


def make_unrouted_record(refusal: Unrouted) -> Line:
    """The same of what reached no provider: nothing was decided of it, and nothing of it was read."""
    told = make_unrouted(refusal)
    connection = {name: told[name] for name in OF_CONNECTION}
    label = str(Outcome(refusal.outcome).label)
    return NOTHING_MORE | connection | make_unrouted_line(refusal) | {"label": label}


def describe_line(line: Line) -> str:
    """When, which, where, what and why, from where and whom to whom, and how often if more than once."""
    outcome = " ".join(filter(None, [line["outcome"], line["cause"]]))
    times = f"  {line['times']} times" if line["times"] > 1 else ""
    at = show_time(datetime.fromisoformat(line["at"]))
    where = f"{line['provider'] or '-':<10}  {outcome:<24}  {line['client_ip'] or '-':<15}"
    to = f" to <{line['recipient']}>" if line["recipient"] else ""
    envelope = f"  <{line['sender']}>{to}" if line["sender"] or to else ""
    return f"{at}  {line['trace_id']}  {where}{envelope}{times}".rstrip()


def list_message_lines(told: dict[str, Any]) -> Iterator[str]:
    """The history of one message, for people."""
    yield f"{told['kind']} at {told['provider']}, received {show_iso(told['received_at'])}"
    yield from list_connection_lines(told)
    yield f"  sender     <{told['sender']}>"
    for label, name in (("from", "from"), ("subject", "subject"), ("Message-ID", "message_id")):
        if told[name]:  # of mail that was refused before it was sent nothing is known
            yield f"  {label:<10} {told[name]}"
    if told["size"]:
        yield f"  content    {told['size']} octets, SHA-256 {told['sha256']}"
    for recipient in told["recipients"]:
        yield from list_recipient_lines(recipient, told["replies"])
    yield from list_reply_lines(told["replies"])
    for event in told["events"]:
        who = " ".join(filter(None, [event["recipient"], event["actor"] and f"by {event['actor']}"]))
        yield "  " + "  ".join(filter(None, [show_iso(event["at"]), event["label"], who, event["text"]]))


def list_connection_lines(told: dict[str, Any]) -> Iterator[str]:
    yield f"  client     {told['client_ip'] or 'ourselves'}, helo {told['helo'] or '-'}, TLS {told['tls'] or 'none'}"
    why = f": {told['ptr_detail']}" if told["ptr_detail"] else ""
    found = " ".join(filter(None, [told["ptr_status"] or "-", told["ptr_name"]]))
    yield f"  PTR        {found} ({told['ptr_milliseconds']} ms){why}"


def list_reply_lines(replies: Any) -> Iterator[str]:
    for one in read_said(replies):
        after = f" (after {one.after})" if one.after else ""
        yield f"  said       {one.command or 'connection'}: {one.reply}{after}"


def list_recipient_lines(recipient: dict[str, Any], replies: Any) -> Iterator[str]:
    judged = f"{recipient['category']} {recipient['score']:.1f}" if recipient["was_judged"] else ""
    release = f"policy {recipient['policy_release']}" if recipient["policy_release"] else ""
    why = ", ".join(filter(None, [judged, release]))
    told = f"{recipient['outcome']}: {recipient['label']}{f' ({why})' if why else ''}"
    yield f"  recipient  {recipient['address']}: {told}"
    if recipient["cause"]:
        yield f"    cause    {recipient['cause']}: {name_cause(recipient['cause'])}"
    if recipient["reply"]:
        is_to_rcpt = recipient["reply"] == find_answer(read_said(replies), recipient["address"])
        attempts = f" (attempts: {recipient['attempts']})" if recipient["attempts"] else ""
        yield f"    reply    {'to RCPT: ' if is_to_rcpt else ''}{recipient['reply']}{attempts}"
    if recipient["next_try"]:
        yield f"    next try {describe_try(recipient)}"
    for finding in recipient["findings"]:
        yield f"    finding  {finding.get('check')} {finding.get('points')}: {finding.get('text')}"


def describe_try(recipient: dict[str, Any]) -> str:
    """When its delivery is tried next."""
    if recipient["being_tried"]:
        return "being tried now"
    is_due = datetime.fromisoformat(recipient["next_try"]) <= timezone.now()
    return "due now" if is_due else show_iso(recipient["next_try"])


def list_unrouted_lines(told: dict[str, Any]) -> Iterator[str]:
    """The history of what reached no provider."""
    times = f", {told['times']} times" if told["times"] > 1 else ""
    label = Outcome(told["outcome"]).label
    yield f"{told['outcome']}: {label}, without a provider, {show_iso(told['at'])}{times}"
    yield from list_connection_lines(told)
    if told["sender"] or told["recipient"]:  # else it named neither, or nobody knows any more
        yield f"  sender     <{told['sender']}>"
    if told["recipient"]:
        yield f"  recipient  <{told['recipient']}>"
    if told["cause"]:
        yield f"  cause      {told['cause']}: {name_cause(told['cause'])}"
    if told["reply"]:
        yield f"  reply      {told['reply']}"
    yield from list_reply_lines(told["replies"])
