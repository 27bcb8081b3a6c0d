"""Header fields out of raw octets, bounded: RFC 5322 fields, RFC 2047 words, RFC 2231 parameters, addresses."""

from __future__ import annotations

import binascii
import re
import string
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from filtering.evidence.text import decode, make_safe

MAX_VALUE_BYTES = 16_384  # of one field; the rest of it is not read
MAX_TEXT_CHARACTERS = 500
MAX_ADDRESS_CHARACTERS = 320  # RFC 5321 4.5.3.1: 64 + 1 + 255
MAX_PARAMETERS = 64

_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_PARAMETER = re.compile(
    rb';\s{0,99}([^\s=;"]{1,80})\s{0,99}=\s{0,99}("(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|[^;]*)', re.DOTALL
)
# A quote without its end reaches to the end, and nothing is tried twice: time stays in proportion to the octets.
_QUOTED = re.compile(r'"(?:[^"\\]|\\(?:.|\Z))*+(?:"|\Z)|\([^()]*\)', re.DOTALL)
_COMMENT = re.compile(_QUOTED.pattern.encode(), re.DOTALL)
_NOT_BASE64 = bytes(set(range(256)) - set(string.ascii_letters.encode() + string.digits.encode() + b"+/"))
_ANGLE = re.compile(r"<([^<>]*)>")
_BARE = re.compile(r"[^\s<>,;:\"()]{1,256}@[^\s<>,;:\"()]{1,256}")


def find_fields(block: bytes, names: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """The values (unfolded, bounded) of the named fields, in order, by lower-case name."""
    found: dict[bytes, list[bytes]] = {}
    for match in _get_pattern(names).finditer(block):
        name = match[1].lower()
        value = _FOLD.sub(b"", match[2][:MAX_VALUE_BYTES]).strip()
        if len(values := found.setdefault(name, [])) < 8:
            values.append(value)
    return found


_patterns: dict[frozenset[bytes], re.Pattern[bytes]] = {}


def _get_pattern(names: frozenset[bytes]) -> re.Pattern[bytes]:
    if names not in _patterns:
        either = b"|".join(sorted(names))
        _patterns[names] = re.compile(rb"(?im)^(" + either + rb")[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)")
    return _patterns[names]


def decode_header(raw: bytes | str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """A header's value as a person would see it (RFC 2047), safe to store, at most `limit` characters; never raises."""
    text = decode(raw[:MAX_VALUE_BYTES]) if isinstance(raw, bytes) else raw[:MAX_VALUE_BYTES]
    if "=?" not in text:
        return make_safe(text, limit=limit)
    pieces: list[str] = []
    waiting: tuple[str, bytes] = ("", b"")  # neighbours of one charset are joined before decoding
    end = 0
    for word in _WORD.finditer(text):
        between = text[end : word.start()]
        charset, data = word[1].partition("*")[0].lower(), _decode_word(word[2], word[3])
        if between.strip() or end == 0 or waiting[0] != charset:
            pieces.append(decode(waiting[1], waiting[0]))
            pieces.append(between if between.strip() or end == 0 else "")
            waiting = (charset, data)
        else:
            waiting = (charset, waiting[1] + data)
        end = word.end()
    return make_safe("".join([*pieces, decode(waiting[1], waiting[0]), text[end:]]), limit=limit)


def _decode_word(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if encoding in "bB":
        return decode_base64(data)
    return binascii.a2b_qp(data, header=True)


def decode_base64(data: bytes) -> bytes:
    """What can be read of base64, junk between and missing padding forgiven."""
    try:
        return binascii.a2b_base64(data)
    except binascii.Error:
        pass
    clean = data.translate(None, _NOT_BASE64)
    clean = clean[: len(clean) - (len(clean) % 4 == 1)]
    return binascii.a2b_base64(clean + b"=" * (-len(clean) % 4))


@dataclass(slots=True)
class Value:
    """A field such as Content-Type: what it says, in lower case, and all values of each parameter, the first counts."""

    main: str = ""
    parameters: dict[str, list[str]] = field(default_factory=dict)
    read: int = 0  # parameters
    is_cut: bool = False  # there are more of them

    def get(self, name: str) -> str:
        return self.parameters.get(name, [""])[0]


def parse_value(value: bytes, limit: int = MAX_PARAMETERS) -> Value:
    """A value with so many parameters (Content-Type, Content-Disposition). RFC 2231 pieces and charsets are joined.

    Where comments or a parameter given twice leave a choice, all readings are there: a stranger may mean any.
    """
    bare = _COMMENT.sub(lambda found: found[0] if found[0].startswith(b'"') else b" ", value)
    found = Value(make_safe(decode(bare[:256]).partition(";")[0], limit=128).lower())
    for reading in dict.fromkeys((bare, value)):
        _add_parameters(found, reading, limit)
    return found


def _add_parameters(found: Value, value: bytes, limit: int) -> None:
    plain: list[tuple[str, str]] = []
    pieces: dict[str, list[tuple[int, bool, bytes]]] = {}
    for index, match in enumerate(_PARAMETER.finditer(value)):
        if index >= limit:
            found.is_cut = True
            break
        found.read += 1
        name, data = decode(match[1]).lower(), _unquote(match[2])
        base, star, rest = name.partition("*")
        if not star:
            plain.append((name, decode(data)))
            continue
        number = rest.rstrip("*")
        position = int(number) if number.isascii() and number.isdigit() and len(number) < 4 else 0
        pieces.setdefault(base, []).append((position, name.endswith("*"), data))
    joined = [(base, _join_pieces(parts)) for base, parts in pieces.items()]
    for name, text in [*joined, *plain]:
        if text not in (known := found.parameters.setdefault(name, [])):
            known.append(text)


def _unquote(data: bytes) -> bytes:
    data = data.strip()
    if data[:1] == b'"' and data[-1:] == b'"' and len(data) > 1:
        return re.sub(rb"\\(.)", rb"\1", data[1:-1], flags=re.DOTALL)
    return data.strip(b'"')


def _join_pieces(parts: list[tuple[int, bool, bytes]]) -> str:
    parts.sort(key=lambda part: part[0])
    charset = ""
    if parts[0][1] and parts[0][2].count(b"'") >= 2:
        name, _, rest = parts[0][2].split(b"'", 2)
        charset = decode(name)
        parts[0] = (parts[0][0], True, rest)
    return decode(b"".join(unquote_to_bytes(data) if coded else data for _, coded, data in parts), charset)


def find_address(value: bytes) -> str:
    """The first address of a From field, lower case; empty where there is none. Names and comments do not count."""
    text = decode(value[:MAX_VALUE_BYTES])
    masked = _QUOTED.sub(lambda quoted: "\0" * len(quoted[0]), text)
    angle = _ANGLE.search(masked)
    if angle and "@" in text[angle.start(1) : angle.end(1)]:
        return _tidy_address(text[angle.start(1) : angle.end(1)])
    bare = _BARE.search(masked.replace("\0", " "))
    return _tidy_address(bare[0]) if bare else ""


def _tidy_address(text: str) -> str:
    address = make_safe(text, limit=2 * MAX_ADDRESS_CHARACTERS).lower()
    if address.startswith("@") and ":" in address:  # a source route (RFC 5321 appendix C)
        address = address.partition(":")[2]
    local, _, domain = address.rpartition("@")
    if not local or not domain or len(address) > MAX_ADDRESS_CHARACTERS:
        return ""
    return address
