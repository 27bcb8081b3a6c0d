"""XCLIENT: a trusted peer says for whom it speaks (Postfix's XCLIENT_README)."""

from __future__ import annotations

import ipaddress
import re

NAMES = {"ADDR", "HELO", "NAME", "PORT", "PROTO", "LOGIN", "DESTADDR", "DESTPORT", "REVERSE_NAME"}
UNKNOWN = {"[UNAVAILABLE]", "[TEMPUNAVAIL]"}
ENCODED = re.compile(r"\+([0-9A-Fa-f]{2})")


def read_xclient(argument: bytes) -> dict[str, str]:
    """The attributes that were stated, by upper-case name. Raises ValueError."""
    words = argument.decode("ascii").split()
    if not words:
        raise ValueError("no attribute")
    stated = dict(map(_read_attribute, words))
    if address := stated.get("ADDR"):
        stated["ADDR"] = str(ipaddress.ip_address(address.upper().removeprefix("IPV6:").lower()))
    return stated


def _read_attribute(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if name.upper() not in NAMES or not equals:
        raise ValueError(f"{name!r} is no attribute")
    if value.upper() in UNKNOWN:
        return name.upper(), ""
    return name.upper(), ENCODED.sub(lambda found: chr(int(found[1], 16)), value)
