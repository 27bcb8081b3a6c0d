"""The common question and answer of DNS, written and read straight on the wire (RFC 1035 section 4.1).

An answer that is nothing but records of the name asked for needs no more; dnspython takes ten times the processor time.
Whatever is not that plain is left to dnspython: None, and never a guess.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass

import dns.rdatatype

HEADER_OCTETS = 12
IN = 1
MAX_NAME_OCTETS = 255
MAX_JUMPS = 8  # of a compressed name; servers need one or two

_PLAIN = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)+\Z")
_PLAIN_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}\Z")
_ASKED_NAME = 0xC000 | HEADER_OCTETS  # a pointer to the question
_POINTER = 0xC0
_MAX_TTL = 0x7FFFFFFF  # RFC 2181 8
_HEADER = struct.Struct("!HHHH")
_RECORD = struct.Struct("!HHHIH")


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """Records as text, each once, and the shortest of their times in seconds."""

    records: tuple[str, ...]
    ttl: int


def write_name(text: str) -> bytes | None:
    """The name on the wire; None where it is not a plain host name of 253 letters at most."""
    name = text if text.endswith(".") else text + "."
    if len(name) >= MAX_NAME_OCTETS or not _PLAIN.match(name):
        return None
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))


def read_plain_answer(wire: bytes, question: bytes, *, limit: int) -> PlainAnswer | None:
    """The first `limit` records of an answer to the question (name, type, class), where all are what was asked for."""
    _, flags, questions, answers = _HEADER.unpack_from(wire)
    if flags & 0xFA0F != 0x8000 or questions != 1 or not answers:  # a whole, successful response to a query
        return None
    kind = int.from_bytes(question[-4:-2], "big")
    at, ttl = HEADER_OCTETS + len(question), _MAX_TTL
    records: dict[str, str] = {}
    try:
        for _ in range(min(answers, limit)):
            name, its_kind, its_class, its_ttl, length = _RECORD.unpack_from(wire, at)
            at += _RECORD.size
            if name != _ASKED_NAME or its_kind != kind or its_class != IN or its_ttl > _MAX_TTL:
                return None
            end = at + length
            record = _read_data(wire, at, end, kind) if end <= len(wire) else None
            if record is None:
                return None
            records.setdefault(record.lower(), record)
            at, ttl = end, min(ttl, its_ttl)
    except (struct.error, IndexError):
        return None
    return PlainAnswer(tuple(records.values()), ttl)


def _read_data(wire: bytes, at: int, end: int, kind: int) -> str | None:
    match kind, end - at:
        case dns.rdatatype.A, 4:
            return socket.inet_ntop(socket.AF_INET, wire[at:end])
        case dns.rdatatype.AAAA, 16:
            return socket.inet_ntop(socket.AF_INET6, wire[at:end])
        case dns.rdatatype.PTR, _:
            return _read_name(wire, at, end)
    return None


def _read_name(wire: bytes, at: int, end: int) -> str | None:
    """The plain name that is written from here to there, be it that it goes on in an earlier place."""
    labels, octets, jumps = [], 1, 0
    while length := wire[at]:
        if length >= _POINTER:
            target = (length & 0x3F) << 8 | wire[at + 1]
            if (not jumps and at + 2 != end) or target >= at or jumps == MAX_JUMPS:
                return None
            at, jumps = target, jumps + 1
            continue
        label = wire[at + 1 : at + 1 + length]
        octets += 1 + length
        if length > 63 or len(label) < length or octets > MAX_NAME_OCTETS or not _PLAIN_LABEL.match(label):
            return None
        labels.append(label)
        at += 1 + length
    if not labels or (not jumps and at + 1 != end):
        return None
    return b".".join(labels).decode("ascii") + "."
