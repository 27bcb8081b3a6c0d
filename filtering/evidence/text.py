"""Octets of strangers to text that is safe to store and to show: no NUL, no lone surrogate, bounded, one line."""

from __future__ import annotations

import re
from encodings.aliases import aliases

# Only codecs known by name are looked up: Python remembers every unknown name it was ever asked for, so a stranger's
# charset names would fill the memory. Codecs that are slow or run an escape language are left out.
_NO_CHARSETS = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem", "utf_7"}
_CODECS = (
    set(aliases.values())
    - {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"}
    - _NO_CHARSETS
)
_CHARSETS = {name: codec for name, codec in aliases.items() if codec in _CODECS}
_CHARSETS |= {codec: codec for codec in _CODECS}
_CHARSETS |= {  # supersets that mail programs mean, and names that they use
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "us_ascii": "utf_8",
    "ascii": "utf_8",
    "unknown_8bit": "utf_8",
    "iso_8859_1": "cp1252",
    "latin_1": "cp1252",
    "latin1": "cp1252",
    "iso8859_1": "cp1252",
    "windows_874": "cp874",
    "iso_8859_8_i": "iso8859_8",
}
MAX_DECODED_CHARACTERS = 2_000_000

_SPACES = re.compile(r"\s+")
# Controls, surrogates, and the marks that reorder what a person sees (Unicode TR 36: bidi overrides and isolates).
_UNSAFE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]")


def make_safe(text: str, *, limit: int) -> str:
    """One printable line of at most `limit` characters: white space joined, controls removed."""
    return _SPACES.sub(" ", _UNSAFE.sub("", text[: 4 * limit + 64])).strip()[:limit].rstrip()


def decode(data: bytes, charset: str = "") -> str:
    """Decode by the charset if it is known, else as UTF-8, else as Windows-1252; never raises.

    The text may hold anything but lone surrogates.
    """
    codec = _CHARSETS.get(charset.strip().lower().replace("-", "_")[:40], "")
    if codec and codec != "utf_8":
        try:
            return data.decode(codec, "replace").encode("utf-8", "replace").decode()[:MAX_DECODED_CHARACTERS]
        except (LookupError, ValueError):
            pass
    try:
        return data.decode("utf-8")[:MAX_DECODED_CHARACTERS]
    except UnicodeDecodeError as error:
        whole = data[: error.start]
        if error.reason == "unexpected end of data" and not whole.isascii():  # UTF-8, cut within its last character
            return whole.decode("utf-8")[:MAX_DECODED_CHARACTERS]
        wanted = codec == "utf_8"
        return data.decode("utf-8" if wanted else "cp1252", "replace")[:MAX_DECODED_CHARACTERS]
