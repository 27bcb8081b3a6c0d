"""What strangers wrote (names, addresses, subjects), made fit to be read in a report."""

from __future__ import annotations

import re

MAX_SUBJECT = 160
MAX_NAME = 80
MAX_ADDRESS = 120

# Controls, line and paragraph separators, and the marks that hide or turn round text (UAX 9, Unicode TR 36).
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]+")
_HTTP = re.compile(r"(?i)\bhttp(?=s?:)")
_DOMAIN_DOT = re.compile(r"(?<=[\w\-])[.\u3002\uff0e\uff61](?=[^\W\d_][\w\-])")
_WORD = re.compile(r"\w")
_ADDRESS = re.compile(r"[^\s@<>\"'/:\\()\[\]]+@[^\s@<>\"'/:\\()\[\]]+")


def clean(text: str, limit: int) -> str:
    """One line without controls and direction marks, cut at `limit` characters."""
    line = " ".join(_UNSEEN.sub(" ", text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"


def defang(text: str) -> str:
    """Write addresses of the web so that they can be read but no mail program makes a link of them.

    `http://evil.example/x` becomes `hxxp[:]//evil[.]example/x`.
    """
    return _DOMAIN_DOT.sub("[.]", _HTTP.sub("hxxp", text).replace("://", "[:]//"))


def read_subject(subject: str) -> str:
    return defang(clean(subject, MAX_SUBJECT))


def read_sender(header_from: str, envelope: str) -> tuple[str, str]:
    """The sender's name (may be empty) and address as a person may read them; the address is what can be judged.

    The address is what stands in the last angle brackets, whatever the name pretends to be; a From without
    an address gives its text as the name, and the envelope's sender as the address.
    """
    line = clean(header_from, 500)
    before, bracket, after = line.rpartition("<")
    name, address = (before, after.partition(">")[0]) if bracket else ("", line)
    if not _ADDRESS.fullmatch(address.strip()):
        name, address = line, envelope
    name = name.strip(" \"'") if _WORD.search(name) else ""
    return defang(clean(name, MAX_NAME)), show_address(address)


def show_address(address: str) -> str:
    shown = clean(address, MAX_ADDRESS)
    return shown if _ADDRESS.fullmatch(shown) else defang(shown)
