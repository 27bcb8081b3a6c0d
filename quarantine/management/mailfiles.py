"""Files of mail as they lie on disks (one message each, maybe with an mbox line), made fit for SMTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import MessageError
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import parseaddr
from pathlib import Path

MAX_HEADER_BYTES = 65_536
ADDRESS = re.compile(r"[!-;=?-~]+@[A-Za-z0-9._-]+")
MBOX_LINE = re.compile(rb">?From ([^ \n]*)[^\n]*\n")


def list_files(folder: Path) -> list[Path]:
    """Every file below the folder by path, or the one file itself."""
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*") if path.is_file())


def make_wire_octets(raw: bytes) -> bytes:
    """The message with CRLF line ends, without the mbox line before it."""
    if found := MBOX_LINE.match(raw):
        raw = raw[found.end() :]
    raw = re.sub(rb"\r\n|\r|\n", b"\r\n", raw)
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


def find_sender(raw: bytes) -> str:
    """Who sent the file, as far as it tells: Return-Path, mbox line, From. Empty: nobody, or the null path."""
    return next(iter_senders(raw), "")


def iter_senders(raw: bytes) -> Iterator[str]:
    line = MBOX_LINE.match(raw)
    headers = read_headers(raw[line.end() if line else 0 :][:MAX_HEADER_BYTES])
    return_path = str(headers.get("Return-Path", "")).strip()
    candidates = [return_path.strip("<> "), line[1].decode("ascii", "replace") if line else ""]
    if return_path == "<>":
        yield ""
    candidates.append(parseaddr(str(headers.get("From", "")))[1])
    yield from (candidate for candidate in candidates if ADDRESS.fullmatch(candidate))


def read_headers(block: bytes) -> Message:
    try:
        return BytesHeaderParser().parsebytes(block)
    except (MessageError, ValueError, LookupError):
        return Message()
