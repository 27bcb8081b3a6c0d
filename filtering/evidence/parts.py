"""A bounded walk over the parts of a message, on the octets as they came. For looking, never for writing back.

One pass from delimiter to delimiter with a table of the boundaries that are open, so that nesting and numbers cost
no more than the octets do. What exceeds a bound is not read, and a problem says so.
"""

from __future__ import annotations

import binascii
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field

from filtering.evidence.headers import MAX_PARAMETERS, Value, decode_base64, decode_header, find_fields, parse_value
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
MAX_ENCODED = 8  # messages that are encoded as a whole, which RFC 2046 5.2.1 forbids
MAX_BASE64_PIECES = 1000
MAX_SOUGHT = 8  # times the octets of the message are gone over in search of delimiters
LEAST_SOUGHT_BYTES = 16_777_216
LF = 10
MAX_FILENAME_CHARACTERS = 255
MAX_ALL_PARAMETERS = 10_000  # of all fields

_MIME_FIELDS = frozenset({b"content-type", b"content-transfer-encoding", b"content-disposition"})
_TOP_FIELDS = _MIME_FIELDS | {b"from", b"subject", b"message-id", b"date"}
_MESSAGES = {"message/rfc822", "message/global"}
_ENCODINGS = {b"": b"", b"7bit": b"", b"8bit": b"", b"binary": b"", b"base64": b"base64"}
_ENCODINGS |= {b"quoted-printable": b"quoted-printable"}
_BASE64_AND_SPACE = string.ascii_letters.encode() + string.digits.encode() + b"+/= \t\r\n"
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64_AND_SPACE.rstrip()))
_ODDITIES = (  # of a header: where readers disagree about where its lines or itself end
    (re.compile(rb"\r[^\n]"), "a bare CR in a header"),
    (re.compile(rb"\n[ \t]+\r?\n"), "a blank line within a header"),
    (re.compile(rb"\0"), "NUL in a header"),
)
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
    walker = _Walker(raw, found)
    walker.run(mbox.end() if mbox else 0, is_top=True)
    waiting = walker.encoded
    for _ in range(MAX_ENCODED):
        if waiting:
            walker = _Walker(waiting.pop(0), found)
            walker.run(0)
            waiting += walker.encoded
    if waiting:
        found.note("too many encoded messages within")
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
        self.encoded: list[bytes] = []  # messages within, decoded
        self.entered = len(found.parts)
        self.lookalikes = self.header_bytes = 0
        self.blank_from, self.blank = -1, (-1, -1)  # the empty line found last, and from where it was sought
        self.blank_crlf = -1  # the next one with CRLF, sought once however many end with LF before it
        self.leaf: Fields | None = None
        self.kind = Value()  # of what was entered last
        self.leaf_start = 0
        self.may_parse = MAX_ALL_PARAMETERS
        self.may_seek = max(MAX_SOUGHT * len(raw), LEAST_SOUGHT_BYTES)

    def run(self, start: int, *, is_top: bool = False) -> None:
        position = self._enter(start, is_top=is_top)
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
            is_message, boundaries = self._get_kind(fields)
            is_top = False
            if is_message and depth + len(self.open) < MAX_DEPTH and not _is_encoded(fields):
                start, depth = body, depth + 1
                continue
            if boundaries and len(self.open) < MAX_DEPTH:
                self._open(boundaries)
                return max(body - 1, 0)  # the first delimiter may follow the header at once
            if boundaries or (is_message and not _is_encoded(fields)):
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
        block = self.raw[start : min(end, start + limit)]
        for oddity, problem in _ODDITIES:
            if oddity.search(block):
                self.found.note(problem)
        return find_fields(block, _TOP_FIELDS if is_top else _MIME_FIELDS), body

    def _find_header_end(self, start: int) -> tuple[int, int]:
        """The end of the last line before the next empty line, and the end of that line."""
        if self.raw.startswith((b"\n", b"\r\n"), start):
            return start, start + (1 if self.raw[start] == LF else 2)
        if not self.blank_from <= start <= self.blank[0]:
            self.blank_from, self.blank = start, self._find_empty_line(start)
        return self.blank

    def _find_empty_line(self, start: int) -> tuple[int, int]:
        size = len(self.raw)
        if self.blank_crlf < start:
            at = self.raw.find(b"\n\r\n", start)
            self.blank_crlf = at if at >= 0 else size
        crlf = self.blank_crlf
        lf = self.raw.find(b"\n\n", start, crlf + 2)
        if lf >= 0:
            return lf + 1, lf + 2
        return (crlf + 1, crlf + 3) if crlf < size else (size, size)

    def _get_kind(self, fields: Fields) -> tuple[bool, list[bytes]]:
        """Whether it is a message, and every boundary that it can be read to name: who says two means to be misread."""
        values = [self._parse(value) for value in fields.get(b"content-type", [])]
        self.kind = values[0] if values else Value("text/plain")
        for name in _MIME_FIELDS:
            if len(fields.get(name, [])) > 1:
                self.found.note(f"several {name.decode().title()} fields")
        multiparts = [value for value in values if value.main.startswith("multipart/")]
        named = [text for value in multiparts for text in value.parameters.get("boundary", [])]
        encoded = [text.encode("utf-8", "replace").rstrip() for text in dict.fromkeys(named)]
        boundaries = [boundary for boundary in encoded if len(boundary) <= MAX_BOUNDARY_BYTES]
        self._note_boundaries(fields, multiparts, boundaries)
        return any(value.main in _MESSAGES for value in values), boundaries

    def _parse(self, value: bytes) -> Value:
        found = parse_value(value, min(MAX_PARAMETERS, self.may_parse))
        self.may_parse -= found.read
        if found.is_cut:
            self.found.note("too many parameters")
        return found

    def _note_boundaries(self, fields: Fields, multiparts: list[Value], boundaries: list[bytes]) -> None:
        if multiparts and not any(boundaries):
            self.found.note("a multipart without boundary")
        if len(boundaries) > 1:
            self.found.note("several boundaries")
        if multiparts and _is_encoded(fields):
            self.found.note("an encoded multipart")

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
            self.found.note("a line like a delimiter")
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
        return (best[0], best[2], best[3]) if best[0] < len(self.raw) else (-1, 0, b"")

    def _end_leaf(self, end: int) -> None:
        if self.leaf is None:
            return
        fields, self.leaf = self.leaf, None
        end = max(end, self.leaf_start)
        if self.raw[end - 1 : end] == b"\r":
            end -= 1
        for part in self._read_leaf(fields, end):
            if len(self.found.parts) >= MAX_PARTS:
                self.found.note("too many parts")
                return
            self.found.decoded += len(part.data)
            if part.is_cut:
                self.found.note("a part was read in part")
            self.found.parts.append(part)
            if part.content_type in _MESSAGES and _is_encoded(fields):
                self.found.note("an encoded message within")
                self.encoded.append(part.data)

    def _read_leaf(self, fields: Fields, end: int) -> Iterator[Part]:
        """The part that it is; where there is more than one way to decode it, the part in each."""
        kind, disposition = self.kind, self._parse((fields.get(b"content-disposition") or [b""])[0])
        filename = self._choose_name(disposition, kind)
        main = kind.main if "/" in kind.main else "text/plain"
        for encoding in self._list_encodings(fields):
            readings, is_cut = self._decode(encoding, end)
            for data in readings:
                room = self._get_room()
                yield Part(
                    content_type=main,
                    charset=make_safe(kind.get("charset"), limit=40),
                    filename=filename,
                    data=data[:room],
                    is_attachment=disposition.main == "attachment" or bool(filename) or not main.startswith("text/"),
                    is_cut=is_cut or len(data) > room,
                )

    def _get_room(self) -> int:
        return max(0, min(MAX_PART_BYTES, MAX_TOTAL_BYTES - self.found.decoded))

    def _decode(self, encoding: bytes, end: int) -> tuple[list[bytes], bool]:
        """The body decoded, in each way it may be read, and whether there is more of it."""
        room = self._get_room()
        share = {b"base64": room * 3 // 2, b"quoted-printable": room * 3}.get(encoding, room)
        body = self.raw[self.leaf_start : min(end, self.leaf_start + share)]
        is_cut = self.leaf_start + len(body) < end
        if encoding == b"quoted-printable":
            return [binascii.a2b_qp(body)], is_cut
        if encoding != b"base64":
            return [body], is_cut
        readings = _read_base64(body)
        if len(readings) > 1:
            self.found.note("base64 goes on after its end")
        if body.translate(None, _BASE64_AND_SPACE):
            self.found.note("other characters in base64")
        return readings, is_cut

    def _choose_name(self, disposition: Value, kind: Value) -> str:
        texts = [*disposition.parameters.get("filename", []), *kind.parameters.get("name", [])]
        names = [decode_header(text, MAX_FILENAME_CHARACTERS) for text in texts]
        if len({name.rpartition(".")[2].lower() for name in names}) > 1:
            self.found.note("a part with several names")
        return next(filter(None, names), "")

    def _list_encodings(self, fields: Fields) -> list[bytes]:
        """How the body may be encoded: as it says, and where that is no encoding, as it is and as is meant perhaps."""
        found: list[bytes] = []
        for value in map(_tidy_encoding, fields.get(b"content-transfer-encoding") or [b""]):
            if value in _ENCODINGS:
                found.append(_ENCODINGS[value])
                continue
            self.found.note("unknown Content-Transfer-Encoding")
            found += [b"", *(encoding for encoding in (b"base64", b"quoted-printable") if encoding in value)]
        return list(dict.fromkeys(found))


def _tidy_encoding(value: bytes) -> bytes:
    return value.partition(b";")[0].strip().lower()


def _is_encoded(fields: Fields) -> bool:
    return any(_ENCODINGS.get(_tidy_encoding(value)) for value in fields.get(b"content-transfer-encoding", []))


def _read_base64(body: bytes) -> list[bytes]:
    """What it decodes to. Where it goes on after a padding, readers stop, begin anew, or do not care: all three."""
    usual = decode_base64(body)
    clean = body.translate(None, _NOT_BASE64)
    if not clean.partition(b"=")[2].strip(b"="):
        return [usual]
    pieces = clean.split(b"=", MAX_BASE64_PIECES)
    anew = b"".join(decode_base64(piece) for piece in pieces)
    return list(dict.fromkeys((usual, anew, decode_base64(clean.replace(b"=", b"")))))
