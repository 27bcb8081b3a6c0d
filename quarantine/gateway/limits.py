"""Every limit of an SMTP session, in one table."""

from __future__ import annotations

from dataclasses import dataclass, field

from quarantine.gateway.inlet import Pace


@dataclass(frozen=True, slots=True)
class Limits:
    """Octets, seconds and counts; docs/configuration.md has the same table. What is over a limit is answered 4xx
    wherever honest mail could reach it.
    """

    message_octets: int = 50 * 1024 * 1024  # SIZE; more is 552
    memory_octets: int = 1024 * 1024 * 1024  # for messages in hand, five times (COPIES) their size; more are 452
    client_memory_octets: int = 384 * 1024 * 1024  # of these, for those from one address; more are 452
    command_octets: int = 4096  # a command line with its end (RFC 5321 4.5.3.1.4 asks for 512 at least); more is 500
    proxy_seconds: float = 5.0  # for the PROXY header of a load balancer; then 421
    command_seconds: float = 300.0  # waiting for a command (RFC 5321 4.5.3.2.7); then 421
    handshake_seconds: float = 30.0  # for STARTTLS
    pace: Pace = field(default_factory=Pace)  # how slow a message may come; then 421
    recipients: int = 1000  # in one message; more are 452
    messages: int = 1000  # in one connection; then 421
    errors: int = 20  # commands answered 5xx (recipients apart); then 421
    failed_recipients: int = 45  # answered 5xx, or put off with their whole message, since the last one; then 421
    idle_commands: int = 100  # commands without mail since the last message; then 421
    recipient_commands: int = 12_000  # RCPT, and MAIL or DATA put off, since the last message; then 421
    small_chunk: int = 512  # octets; a chunk of fewer is a command without mail, unless it is the last
    connections: int = 2000  # of one process; more are 421
    client_connections: int = 50  # of one address, by process; more are 421
