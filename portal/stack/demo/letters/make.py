"""What a message of the demo is, and how its octets are made."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from enum import StrEnum
from textwrap import dedent

POLICY = SMTP.clone(max_line_length=76)


class Kind(StrEnum):
    """What the message is there to show."""

    CLEAN = "clean"
    NEWSLETTER = "newsletter"
    BOUNCE = "bounce"
    ALLOWED_SENDER = "allowed sender"
    SPAM = "spam"
    SURE_SPAM = "sure spam"
    VIRUS = "virus"
    BLOCKED_SENDER = "blocked sender"
    NO_REVERSE_DNS = "no reverse DNS"
    ODD_REVERSE_DNS = "reverse DNS unknown or mismatched"
    UNKNOWN_MAILBOX = "unknown mailbox"


@dataclass(frozen=True)
class File:
    """An attachment."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Draft:
    """A message to be made and sent. `sender` is the envelope's; empty for the null path."""

    name: str
    kind: Kind
    ip: str
    sender: str
    to: tuple[str, ...]
    subject: str
    text: str = ""
    html: str = ""
    author: str = ""  # as From says; empty: the envelope's sender
    files: tuple[File, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    hours: float = 2  # before now, in the Date line
    raw: bytes = b""  # the whole message but for %DATE% and %ID%, where it must not be made by a library
    reply: int = 250

    @property
    def message_id(self) -> str:
        domain = self.sender.rpartition("@")[2] or "mailer.example"
        return f"<{self.name}.lazaret-demo@{domain}>"


def compose(draft: Draft, now: datetime) -> bytes:
    """The octets of the message, with CRLF line ends."""
    date = format_datetime(now - timedelta(hours=draft.hours))
    if draft.raw:
        octets = draft.raw.replace(b"%DATE%", date.encode()).replace(b"%ID%", draft.message_id.encode())
        return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    message = EmailMessage(policy=POLICY)
    message["Date"] = date
    message["Message-ID"] = draft.message_id
    message["From"] = draft.author or draft.sender
    message["To"] = ", ".join(draft.to)
    message["Subject"] = draft.subject
    for name, value in draft.headers:
        message[name] = value
    fill(message, draft)
    return message.as_bytes()


def fill(message: EmailMessage, draft: Draft) -> None:
    message.set_content(tidy(draft.text), cte="quoted-printable")
    if draft.html:
        message.add_alternative(tidy(draft.html), subtype="html", cte="quoted-printable")
    for file in draft.files:
        main, _, sub = file.content_type.partition("/")
        message.add_attachment(file.data, maintype=main, subtype=sub, filename=file.name)


def tidy(text: str) -> str:
    return dedent(text).strip("\n") + "\n"


def make_png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG of 8-bit RGB pixels, row by row."""
    rows = b"".join(b"\0" + pixels[start : start + 3 * width] for start in range(0, 3 * width * height, 3 * width))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 9)))
    body = b"".join(make_chunk(name, data) for name, data in (*chunks, (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def make_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_pdf(line: str) -> bytes:
    """A one-page PDF that says one line."""
    stream = f"BT /F1 18 Tf 72 740 Td ({line}) Tj ET".encode("latin-1")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    body, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(body))
    return body + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer
