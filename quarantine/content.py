"""How octets are kept: compressed, checked when they are read, and dropped when no recipient needs them."""

from __future__ import annotations

import hashlib

import zstandard

from quarantine.models import Content, State

LEVEL = 3  # 2.5 times smaller at 600 MB a second
SMALLEST = 128  # octets below which compression gains nothing

# Whoever is in one of these states may still want the octets. A released message is kept for its retention, so
# that it can be looked at again; afterwards only the other states count (quarantine.retention).
NEEDING = (
    State.QUARANTINED.value,
    State.RELEASING.value,
    State.RELEASED.value,
    State.DELIVERING.value,
    State.DEFERRED.value,
    State.HELD.value,
)

# Two statements, in this order, in the transaction that changed the recipients' states: the lock makes one of two
# transactions that finish the last two recipients wait, so that the second one sees that nobody is left.
LOCK_CONTENT = "SELECT 1 FROM {content} WHERE message_id = ANY(%s) ORDER BY message_id FOR UPDATE"
DROP_CONTENT = (
    "DELETE FROM {content} c WHERE c.message_id = ANY(%s) AND NOT EXISTS"
    " (SELECT 1 FROM {recipient} r WHERE r.message_id = c.message_id AND r.state = ANY(%s))"
)


class ContentGoneError(LookupError):
    """The octets were dropped: nobody needed them any more."""


class ContentDamagedError(ValueError):
    """What is stored is not what was received."""


def compress(raw: bytes) -> tuple[int, bytes]:
    """The codec's number and the stored form of `raw`. Safe in any thread."""
    if len(raw) < SMALLEST:
        return Content.Codec.PLAIN.value, raw
    return Content.Codec.ZSTD.value, zstandard.ZstdCompressor(level=LEVEL).compress(raw)


def decompress(codec: int, data: bytes, *, size: int) -> bytes:
    """The octets again; never more than `size`, whatever the stored form claims. Raises ContentDamagedError."""
    if codec == Content.Codec.PLAIN:
        return data
    if codec != Content.Codec.ZSTD:
        raise ContentDamagedError(f"unknown codec {codec}")
    try:
        if zstandard.frame_content_size(data) > size:
            raise ContentDamagedError("the stored form is longer than the message")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=max(size, 1))
    except zstandard.ZstdError as error:
        raise ContentDamagedError(str(error)) from None


def restore(codec: int, data: bytes, *, size: int, sha256: bytes) -> bytes:
    """The octets received, checked by length and SHA-256. Raises ContentDamagedError."""
    raw = decompress(codec, data, size=size)
    if len(raw) != size or hashlib.sha256(raw).digest() != sha256:
        raise ContentDamagedError("length or SHA-256 differ from what was received")
    return raw
