"""A bounded walk over the parts of a message, on the octets as they came. For looking, never for writing back.

One pass from delimiter to delimiter with a table of the boundaries that are open, so that nesting and numbers cost
no more than the octets do. What exceeds a bound is not read, and a problem says so.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field

from filtering.evidence.headers import decode_base64, decode_header, find_fields, parse_value
from filtering.evidence.text import decode, make_safe

__all__ = ["Part", "Walk", "decode_header", "list_parts", "walk"]

MAX_PARTS = 1000  # more are not looked at
MAX_DEPTH = 50  # nested multiparts and messages
MAX_HEADER_BYTES = 524_288  # of a message's header
MAX_PART_HEADER_BYTES = 65_536
MAX_ALL_HEADER_BYTES = 2_097_152
MAX_PART_BYTES = 2_097_152  # decoded, of one part
MAX_TOTAL_BYTES = 8_388_608  # decoded, of all parts
MAX_BOUNDARY_BYTES = 2048
MAX_LOOKALIKES = 2000  # lines that begin like a delimiter and are none
MAX_SOUGHT = 8  # times the octets of the message are gone over in search of delimiters
LEAST_SOUGHT_BYTES = 16_777_216
LF = 10
MAX_FILENAME_CHARACTERS = 255

_MIME_FIELDS = frozenset({b"content-type", b"content-transfer-encoding", b"content-disposition"})
_TOP_FIELDS = _MIME_FIELDS | {b"from", b"subject", b"message-id"}
_MBOX_LINE = re.compile(rb">?From [^\n]{0,2000}\n")

Fields = dict[bytes, list[bytes]]


@dataclass(frozen=True, slots=True)
class Part:
    """A leaf of the message. `data` is decoded and bounded; `is_cut` says that there is more of it."""

    content_type: str = "text/plain"
    charset: str = ""
    filename: str = ""
    data: bytes = b""
    is_attachment: bool = False
    is_cut: bool = False

    @property
    def text(self) -> str:
        """The data as text by the part's charset; never raises. Not made safe: line ends and controls are kept."""
        return decode(self.data, self.charset)


@dataclass(slots=True)
class Walk:
    """What a walk found: the fields of the message's own header, the leaves, and what was out of the ordinary."""

    fields: Fields = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    decoded: int = 0

    def note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def list_parts(raw: bytes) -> list[Part]:
    """The leaves of the message, decoded, within the bounds above. Never raises."""
    return walk(raw).parts


def walk(raw: bytes) -> Walk:
    """Walk the message once. Never raises; time is in proportion to the octets."""
    found = Walk()
    if b"\n" not in raw[:MAX_PART_HEADER_BYTES] and b"\r" in raw[:MAX_PART_HEADER_BYTES]:
        raw = raw.replace(b"\r", b"\n")  # line ends of an old Macintosh
    mbox = _MBOX_LINE.match(raw)
    _Walker(raw, found).run(mbox.end() if mbox else 0)
    return found


@dataclass(slots=True)
class _Sought:
    """Where a boundary's next delimiter is, or up to where there is none."""

    at: int = -1
    is_found: bool = False

    def seek(self, raw: bytes, boundary: bytes, start: int, end: int) -> int:
        """Seek it in these octets; returns how many were gone over."""
        needle = b"\n--" + boundary
        at = raw.find(needle, start, end + len(needle))
        self.at, self.is_found = (at, True) if at >= 0 else (end, False)
        return max(self.at - start, 0)


class _Walker:
    """The state of one walk: the boundaries that are open, from the outermost, and the leaf being read."""

    def __init__(self, raw: bytes, found: Walk) -> None:
        self.raw = raw
        self.found = found
        self.open: list[dict[bytes, _Sought]] = []  # by level
        self.entered = self.lookalikes = self.header_bytes = 0
        self.blank_from, self.blank = -1, (-1, -1)  # the empty line found last, and from where it was sought
        self.leaf: Fields | None = None
        self.leaf_start = 0
        self.may_seek = max(MAX_SOUGHT * len(raw), LEAST_SOUGHT_BYTES)

    def run(self, start: int) -> None:
        position = self._enter(start, is_top=True)
        while self.open:
            at, level, is_last, after = self._find_delimiter(position)
            if at < 0:
                self.found.note("a multipart is not closed")
                break
            self._end_leaf(at)
            del self.open[level + (not is_last) :]
            self.entered += not is_last
            if self.entered > MAX_PARTS:
                self.found.note("too many parts")
                return
            position = after - 1 if is_last else self._enter(after)
        self._end_leaf(len(self.raw))

    def _enter(self, start: int, *, is_top: bool = False) -> int:
        """Read the header at `start`, open what it opens, and return where its body begins."""
        depth = 0
        while True:
            fields, body = self._read_header(start, is_top=is_top)
            if is_top:
                self.found.fields = fields
            kind, boundaries = self._get_kind(fields)
            is_top = False
            if kind == "message/rfc822" and depth + len(self.open) < MAX_DEPTH and not _is_encoded(fields):
                start, depth = body, depth + 1
                continue
            if boundaries and len(self.open) < MAX_DEPTH:
                self._open(boundaries)
                return max(body - 1, 0)  # the first delimiter may follow the header at once
            if boundaries:
                self.found.note("nested too deeply")
            self.leaf, self.leaf_start = fields, body
            return max(body - 1, 0)

    def _read_header(self, start: int, *, is_top: bool) -> tuple[Fields, int]:
        """The fields of the header at `start`, and where its body begins."""
        limit = MAX_HEADER_BYTES if is_top else MAX_PART_HEADER_BYTES
        end, body = self._find_header_end(start)
        if not is_top:
            # A part may be nothing but a header: a line that begins with dashes is no field, so it ends the header.
            if self.raw.startswith(b"--", start):
                return {}, start
            if (dashes := self.raw.find(b"\n--", start, end)) >= 0:
                end = body = dashes + 1
        limit = min(limit, MAX_ALL_HEADER_BYTES - self.header_bytes)
        self.header_bytes += min(end - start, limit)
        if body - start > limit:
            self.found.note("header too long")
        return find_fields(self.raw[start : min(end, start + limit)], _TOP_FIELDS if is_top else _MIME_FIELDS), body

    def _find_header_end(self, start: int) -> tuple[int, int]:
        """The end of the last line before the next empty line, and the end of that line."""
        if self.raw.startswith((b"\n", b"\r\n"), start):
            return start, start + (1 if self.raw[start] == LF else 2)
        if not self.blank_from <= start <= self.blank[0]:
            self.blank_from, self.blank = start, self._find_empty_line(start)
        return self.blank

    def _find_empty_line(self, start: int) -> tuple[int, int]:
        size = len(self.raw)
        crlf = self.raw.find(b"\n\r\n", start)
        lf = self.raw.find(b"\n\n", start, size if crlf < 0 else crlf + 2)
        if lf >= 0:
            return lf + 1, lf + 2
        return (crlf + 1, crlf + 3) if crlf >= 0 else (size, size)

    def _get_kind(self, fields: Fields) -> tuple[str, list[bytes]]:
        """The type, and every boundary that any Content-Type field names: who says two means to be misread."""
        kind, boundaries = "", []
        for value in fields.get(b"content-type", []):
            main, parameters = parse_value(value)
            kind = kind or main
            boundary = parameters.get("boundary", "").encode("utf-8", "replace").rstrip()
            if main.startswith("multipart/") and 0 < len(boundary) <= MAX_BOUNDARY_BYTES:
                boundaries.append(boundary)
        if len(fields.get(b"content-type", [])) > 1:
            self.found.note("several Content-Type fields")
        if kind.startswith("multipart/") and not boundaries:
            self.found.note("a multipart without boundary")
        return kind, boundaries

    def _open(self, boundaries: list[bytes]) -> None:
        if any(boundary in level for level in self.open for boundary in boundaries):
            self.found.note("a boundary is used twice")
        self.open.append({boundary: _Sought() for boundary in boundaries})

    def _find_delimiter(self, position: int) -> tuple[int, int, bool, int]:
        """The next delimiter line of an open boundary: where, its level, whether it closes, where the next line is."""
        while self.lookalikes < MAX_LOOKALIKES:
            at, level, boundary = self._find_next(position)
            if at < 0:
                break
            start = at + 3 + len(boundary)
            end = self.raw.find(b"\n", start, start + MAX_BOUNDARY_BYTES)
            rest = self.raw[start : end if end >= 0 else start + MAX_BOUNDARY_BYTES].rstrip()
            if rest in {b"", b"--"}:
                return at, level, rest == b"--", (end + 1 if end >= 0 else len(self.raw))
            position = at + 1
            self.lookalikes += 1
        else:
            self.found.note("too many lines like a delimiter")
        return -1, 0, True, len(self.raw)

    def _find_next(self, position: int) -> tuple[int, int, bytes]:
        """Where the first delimiter of any open boundary begins; of boundaries that begin alike the longest is meant.

        How far each was sought is remembered, and an inner one is sought no further than the outer's next: all the
        octets are gone over once a boundary, until that is too much.
        """
        best = (len(self.raw), 0, 0, b"")
        for level, boundaries in enumerate(self.open):
            for boundary, known in boundaries.items():
                if known.at < position or (not known.is_found and known.at < best[0]):
                    if self.may_seek <= 0:
                        self.found.note("too many boundaries in so long a message")
                        return -1, 0, b""
                    self.may_seek -= known.seek(self.raw, boundary, max(position, known.at), best[0])
                if known.is_found and known.at <= best[0]:
                    best = min(best, (known.at, -len(boundary), level, boundary))
        return (best[0], best[2], best[3]) if best[3] else (-1, 0, b"")

    def _end_leaf(self, end: int) -> None:
        if self.leaf is None:
            return
        fields, self.leaf = self.leaf, None
        end = max(end, self.leaf_start)
        if self.raw[end - 1 : end] == b"\r":
            end -= 1
        part = _make_part(fields, self.raw, self.leaf_start, end, MAX_TOTAL_BYTES - self.found.decoded)
        self.found.decoded += len(part.data)
        if part.is_cut:
            self.found.note("a part was read in part")
        self.found.parts.append(part)


def _get_encoding(fields: Fields) -> bytes:
    return (fields.get(b"content-transfer-encoding") or [b""])[0].partition(b";")[0].strip().lower()


def _is_encoded(fields: Fields) -> bool:
    return _get_encoding(fields) in {b"base64", b"quoted-printable"}


def _make_part(fields: Fields, raw: bytes, start: int, end: int, room: int) -> Part:
    kind, parameters = parse_value((fields.get(b"content-type") or [b"text/plain"])[0])
    disposition, more = parse_value((fields.get(b"content-disposition") or [b""])[0])
    data, is_cut = _decode_body(_get_encoding(fields), raw, start, end, max(0, min(MAX_PART_BYTES, room)))
    filename = decode_header(more.get("filename") or parameters.get("name", ""), MAX_FILENAME_CHARACTERS)
    kind = kind if "/" in kind else "text/plain"
    return Part(
        content_type=kind,
        charset=make_safe(parameters.get("charset", ""), limit=40),
        filename=filename,
        data=data,
        is_attachment=disposition == "attachment" or bool(filename) or not kind.startswith("text/"),
        is_cut=is_cut,
    )


def _decode_body(encoding: bytes, raw: bytes, start: int, end: int, room: int) -> tuple[bytes, bool]:
    if encoding == b"base64":
        body = raw[start : min(end, start + room * 3 // 2)]
        data = decode_base64(body)
    elif encoding == b"quoted-printable":
        body = raw[start : min(end, start + room * 3)]
        data = binascii.a2b_qp(body)
    else:
        body = raw[start : min(end, start + room)]
        data = body
    return data[:room], len(data) > room or start + len(body) < end
