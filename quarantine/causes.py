"""Why a recipient, a message or a connection was not taken: the words in which it is counted and told."""

from __future__ import annotations

from django.db.models import TextChoices


class Cause(TextChoices):
    """At most 24 letters. The label completes "Not taken: ..."; people read it in lists and in the trace."""

    # refused: for good
    REVERSE_DNS = "reverse_dns", "the client has no reverse DNS"
    NO_MAILBOX = "no_mailbox", "there is no such mailbox"
    RELAY_DENIED = "relay_denied", "the domain is not ours"
    TOO_BIG = "too_big", "larger than is accepted"
    LOOP = "loop", "a routing loop"
    POLICY = "policy", "the policy refuses its content"
    SYNTAX = "syntax", "an address could not be read"
    # deferred: told to try again
    UNAVAILABLE = "unavailable", "the database did not answer"
    FAULT = "fault", "a fault of ours"
    OVERLOAD = "overload", "too much at the moment"
    NO_ROOM = "no_room", "too many octets in hand"
    NO_SPACE = "no_space", "the disk is full"
    UNVERIFIED = "unverified", "the mail server could not be asked for the mailbox"
    TOO_MANY_RECIPIENTS = "too_many_recipients", "too many recipients in one message"
    TOO_MANY_CONNECTIONS = "too_many_connections", "too many connections"
    TOO_MANY_MESSAGES = "too_many_messages", "too many messages in one connection"
    TOO_MANY_ERRORS = "too_many_errors", "too many errors"
    TOO_MANY_COMMANDS = "too_many_commands", "too many commands without mail"
    STOPPING = "stopping", "the gateway was being restarted"
    NOT_SMTP = "not_smtp", "the client does not speak SMTP"
    EARLY_TALKER = "early_talker", "the client spoke before it was greeted"
    BAD_PROXY = "bad_proxy", "the proxy in front did not say for whom it speaks"
    # repeated: taken before
    SENT_AGAIN = "sent_again", "it had been taken a moment before"
    # unfinished: by the client
    TIMEOUT = "timeout", "the client was too slow"
    QUIT = "quit", "the client ended the session"
    DISCONNECTED = "disconnected", "the client hung up"
    RESET = "reset", "the client gave the message up"
    TLS_FAILED = "tls_failed", "encryption could not be agreed on"
    NO_MAIL = "no_mail", "the client sent no mail"


def name_cause(cause: str) -> str:
    """A cause in words; one that is not known any more, as it is."""
    return str(Cause(cause).label) if cause in Cause.values else cause.replace("_", " ")
