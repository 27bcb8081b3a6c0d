"""What commands say about messages: as JSON, and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from portal.tenants.models import ServiceProvider
from quarantine.models import Event, Message, Recipient
from quarantine.platform.models import Unrouted


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
        "helo": message.helo,
        "tls": message.tls,
        "sender": message.sender,
        "size": message.size,
        "sha256": bytes(message.sha256 or b"").hex(),
        "from": message.header_from,
        "subject": message.subject,
        "message_id": message.message_id,
        "policy_release": message.policy_release,
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
        "helo": refusal.helo,
        "sender": refusal.sender,
        "recipient": refusal.recipient,
        "reply": refusal.reply,
    }


def list_message_lines(told: dict[str, Any]) -> Iterator[str]:
    """The history of one message, for people."""
    yield f"{told['kind']} at {told['provider']}, received {told['received_at']}"
    yield f"  client     {told['client_ip'] or 'ourselves'}, helo {told['helo']}"
    yield f"  PTR        {told['ptr_status']} {told['ptr_name']}"
    yield f"  sender     <{told['sender']}>  from {told['from']}"
    yield f"  subject    {told['subject']}"
    yield f"  content    {told['size']} octets, SHA-256 {told['sha256']}"
    for recipient in told["recipients"]:
        yield from list_recipient_lines(recipient)
    for event in told["events"]:
        who = " ".join(filter(None, [event["recipient"], event["actor"] and f"by {event['actor']}"]))
        yield f"  {event['at']}  {event['kind']:<15} {who}  {event['text']}"


def list_recipient_lines(recipient: dict[str, Any]) -> Iterator[str]:
    yield (
        f"  recipient  {recipient['address']}: {recipient['state']} "
        f"({recipient['category']} {recipient['score']:.1f}, policy {recipient['policy_release']})"
    )
    if recipient["reply"]:
        yield f"    reply    {recipient['reply']} (attempts: {recipient['attempts']})"
    for finding in recipient["findings"]:
        yield f"    finding  {finding.get('check')} {finding.get('points')}: {finding.get('text')}"


def describe_unrouted(told: dict[str, Any]) -> str:
    return (
        f"refused {told['at']} from {told['client_ip']}: <{told['sender']}> to <{told['recipient']}>: {told['reply']}"
    )
