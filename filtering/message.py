"""What arrived: the octets, who sent them, and when. Values that never change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Peer:
    """The connecting client. `ip` is the address of the connection, never one from a header."""

    ip: str
    helo: str = ""
    tls: str = ""  # protocol and cipher, empty without TLS


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """One message of one transaction. `raw` are the octets received; `sender` is empty for the null path."""

    trace_id: str
    raw: bytes
    sender: str
    peer: Peer
    received_at: datetime
