"""The id of a message's trace: what the sender is told with 250, and what people type to find it."""

from __future__ import annotations

import secrets
import time

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
LENGTH = 20
TIME_BITS = 48  # milliseconds since 1970: until the year 10889
RANDOM_BITS = LENGTH * 5 - TIME_BITS
MISREAD = str.maketrans("ILO", "110")


def make_trace_id() -> str:
    """A new id of 20 characters; one made in a later millisecond sorts later."""
    number = (time.time_ns() // 1_000_000) << RANDOM_BITS | secrets.randbits(RANDOM_BITS)
    return "".join(ALPHABET[number >> shift & 31] for shift in range((LENGTH - 1) * 5, -1, -5))


def read_trace_id(text: str) -> str:
    """An id as a person typed it: lower case, spaces, and the letters that look like digits are put right."""
    return "".join(text.split()).upper().translate(MISREAD)
