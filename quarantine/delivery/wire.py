"""What goes over the wire: our header lines, then the octets as they were received.

RFC 5321 2.3.8 forbids a CR or LF alone on the wire, and both have been used to smuggle a second message past a relay
(CVE-2023-51764 and others). So the one thing that is changed in a message is a bare CR or LF, which becomes CRLF;
a message without any leaves exactly as it came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

LINE_END = re.compile(rb"\r\n|\r|\n")
NOT_IN_HEADER = re.compile(r"[^!#-'*-\[\]-~ ]+")  # printable ASCII, less what quotes, comments and escapes are made of
MAX_WORD = 255


def normalise(raw: bytes) -> bytes:
    """`raw` with every line ended by CRLF, the last one too."""
    ends = raw.count(b"\r\n")
    if raw.count(b"\r") != ends or raw.count(b"\n") != ends:
        raw = LINE_END.sub(b"\r\n", raw)
    return raw if raw.endswith(b"\r\n") or not raw else raw + b"\r\n"


def stuff(lines: bytes) -> bytes:
    """Double the dot that begins a line (RFC 5321 4.5.2)."""
    stuffed = lines.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def encode(head: bytes, raw: bytes) -> bytes:
    """All that is sent between 354 and the final dot."""
    return stuff(head + normalise(raw))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from, as it stands in our Received line. Mail of our own has no `client_ip`."""

    trace_id: str
    received_at: datetime
    client_ip: str = ""
    ptr_name: str = ""
    helo: str = ""
    tls: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """What mail that is delivered in spite of its category carries in its header."""

    category: str
    score: float


def make_head(origin: Origin, *, hostname: str, recipients: tuple[str, ...], mark: Mark | None) -> bytes:
    """Our header lines. `for` names a recipient only where there is one: nobody learns of another (RFC 5321 7.2)."""
    lines = [make_received(origin, hostname=hostname, recipients=recipients)]
    lines.append(f"X-Lazaret-Trace: {origin.trace_id} by {hostname}")  # seen twice, it goes round: quarantine.intake
    if mark:
        lines.append("X-Spam-Flag: YES")
        lines.append(f"X-Lazaret-Verdict: {mark.category}; score={mark.score:.1f}")
    return "".join(f"{line}\r\n" for line in lines).encode()


def make_received(origin: Origin, *, hostname: str, recipients: tuple[str, ...]) -> str:
    """The Received line of RFC 5321 4.4, with the address of the connection and how it was protected (RFC 3848)."""
    parts = ["Received:"]
    if origin.client_ip:
        parts.append(f"from {clean(origin.helo) or 'unknown'} ({describe_client(origin)})")
    parts.append(f"by {hostname} (Lazaret) with {'ESMTPS' if origin.tls else 'ESMTP'} id {origin.trace_id}")
    if len(recipients) == 1:
        parts.append(f"for <{recipients[0]}>")
    return (
        "\r\n\t".join(parts).replace("Received:\r\n\t", "Received: ") + f";\r\n\t{format_datetime(origin.received_at)}"
    )


def describe_client(origin: Origin) -> str:
    literal = f"[IPv6:{origin.client_ip}]" if ":" in origin.client_ip else f"[{origin.client_ip}]"
    tls = f"; {clean(origin.tls)}" if origin.tls else ""
    return f"{clean(origin.ptr_name) or 'unknown'} {literal}{tls}"


def clean(word: str) -> str:
    """A word that somebody else chose, fit for our header."""
    return NOT_IN_HEADER.sub("?", word)[:MAX_WORD]
