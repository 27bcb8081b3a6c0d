"""Features of a message: its distinct byte 4-grams, hashed into slots of one weight array.

A 4-gram has one slot for everybody and one for each provider (Weinberger et al. 2009): what is spam to all is
learned once, what is particular to a provider's mail stays with its mail.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

SLOT_BITS = 22  # 4,194,304 slots, 16 MiB of float32
GRAM_BYTES = 4

Slots = npt.NDArray[np.uint32]

_SPREAD = np.uint32(2654435761)  # Knuth's multiplicative hash
_MIX = np.uint32(2246822519)


def list_grams(window: bytes) -> Slots:
    """The distinct 4-grams of the window as numbers, ascending."""
    if len(window) < GRAM_BYTES:
        window = window.ljust(GRAM_BYTES, b"\0")
    grams: Slots = np.ndarray((len(window) - GRAM_BYTES + 1,), np.dtype("<u4"), window, 0, (1,)).copy()
    grams.sort()
    is_first = np.concatenate(([True], grams[1:] != grams[:-1]))
    distinct: Slots = grams[is_first]
    return distinct


def find_slots(window: bytes, provider: str = "") -> Slots:
    """Where the weights of the window's features are: those for everybody, then those of the provider."""
    grams = list_grams(window)
    shared = _hash(grams, 0)
    return np.concatenate((shared, _hash(grams, _seed(provider)))) if provider else shared


def _seed(provider: str) -> int:
    return zlib.crc32(b"provider:" + provider.encode()) or 1


def _hash(grams: Slots, seed: int) -> Slots:
    mixed = (grams ^ np.uint32(seed)) * _SPREAD
    mixed ^= mixed >> np.uint32(15)
    mixed *= _MIX
    mixed >>= np.uint32(32 - SLOT_BITS)
    return mixed
