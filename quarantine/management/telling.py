"""What commands say about messages: as JSON, and as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from portal.tenants.models import ServiceProvider
from quarantine.causes import name_cause
from quarantine.models import Event, Message, Recipient
from quarantine.platform.models import Unrouted

Line = dict[str, Any]


def show(value: object) -> str:
    """A value that strangers wrote, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def show_time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")


def make_message(provider: ServiceProvider, message: Message) -> dict[str, Any]:
    """All that is known of a message: as its provider's people may see it."""
    addresses = {recipient.pk: recipient.address for recipient in message.recipients.all()}
    return {
        "provider": provider.slug,
        "kind": message.kind,
        "received_at": message.received_at.isoformat(),
        "client_ip": message.client_ip or "",
        "ptr_status": message.ptr_status,
        "ptr_name": message.ptr_name,
        "ptr_milliseconds": message.ptr_milliseconds,
        "helo": message.helo,
        "tls": message.tls,
        "sender": message.sender,
        "size": message.size,
        "sha256": bytes(message.sha256 or b"").hex(),
        "from": message.header_from,
        "subject": message.subject,
        "message_id": message.message_id,
        "policy_release": message.policy_release,
        "replies": message.replies,
        "recipients": [make_recipient(row) for row in sorted(message.recipients.all(), key=lambda row: row.pk)],
        "events": [
            make_event(event, addresses)
            for event in sorted(message.events.all(), key=lambda event: (event.at, event.pk))
        ],
    }


def make_recipient(recipient: Recipient) -> dict[str, Any]:
    return {
        "address": recipient.address,
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
    }


def make_event(event: Event, addresses: dict[int, str]) -> dict[str, Any]:
    return {
        "at": event.at.isoformat(),
        "kind": event.kind,
        "recipient": addresses.get(event.recipient_id or 0, ""),
        "text": event.text,
        "actor": event.actor,
    }


def make_unrouted(refusal: Unrouted) -> dict[str, Any]:
    return {
        "at": refusal.at.isoformat(),
        "client_ip": refusal.client_ip or "",
        "ptr_status": refusal.ptr_status,
        "ptr_name": refusal.ptr_name,
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
        "outcome": recipient.state,
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


def describe_line(line: Line) -> str:
    """When, which, where, what and why, from where and whom to whom, and how often if more than once."""
    outcome = " ".join(filter(None, [line["outcome"], line["cause"]]))
    times = f"  {line['times']} times" if line["times"] > 1 else ""
    at = show_time(datetime.fromisoformat(line["at"]))
    where = f"{line['provider'] or '-':<10}  {outcome:<24}  {line['client_ip'] or '-':<15}"
    return f"{at}  {line['trace_id']}  {where}  <{line['sender']}> to <{line['recipient']}>{times}"


def list_message_lines(told: dict[str, Any]) -> Iterator[str]:
    """The history of one message, for people."""
    yield f"{told['kind']} at {told['provider']}, received {told['received_at']}"
    yield from list_connection_lines(told)
    yield f"  sender     <{told['sender']}>"
    for label, name in (("from", "from"), ("subject", "subject"), ("Message-ID", "message_id")):
        if told[name]:  # of mail that was refused before it was sent nothing is known
            yield f"  {label:<10} {told[name]}"
    if told["size"]:
        yield f"  content    {told['size']} octets, SHA-256 {told['sha256']}"
    for recipient in told["recipients"]:
        yield from list_recipient_lines(recipient)
    yield from list_reply_lines(told["replies"])
    for event in told["events"]:
        who = " ".join(filter(None, [event["recipient"], event["actor"] and f"by {event['actor']}"]))
        yield f"  {event['at']}  {event['kind']:<15} {who}  {event['text']}"


def list_connection_lines(told: dict[str, Any]) -> Iterator[str]:
    yield f"  client     {told['client_ip'] or 'ourselves'}, helo {told['helo'] or '-'}, TLS {told['tls'] or 'none'}"
    yield f"  PTR        {told['ptr_status'] or '-'} {told['ptr_name']} ({told['ptr_milliseconds']} ms)"


def list_reply_lines(replies: Iterable[Sequence[str]]) -> Iterator[str]:
    for command, reply in replies:
        yield f"  said       {command or 'connection'}: {reply}"


def list_recipient_lines(recipient: dict[str, Any]) -> Iterator[str]:
    yield (
        f"  recipient  {recipient['address']}: {recipient['state']} "
        f"({recipient['category']} {recipient['score']:.1f}, policy {recipient['policy_release']})"
    )
    if recipient["cause"]:
        yield f"    cause    {recipient['cause']}: {name_cause(recipient['cause'])}"
    if recipient["reply"]:
        yield f"    reply    {recipient['reply']} (attempts: {recipient['attempts']})"
    for finding in recipient["findings"]:
        yield f"    finding  {finding.get('check')} {finding.get('points')}: {finding.get('text')}"


def list_unrouted_lines(told: dict[str, Any]) -> Iterator[str]:
    """The history of what reached no provider."""
    times = f", {told['times']} times" if told["times"] > 1 else ""
    yield f"{told['outcome']} without a provider, {told['at']}{times}"
    yield from list_connection_lines(told)
    yield f"  sender     <{told['sender']}>"
    yield f"  recipient  <{told['recipient']}>"
    yield f"  cause      {told['cause']}: {name_cause(told['cause'])}"
    yield f"  reply      {told['reply']}"
    yield from list_reply_lines(told["replies"])
