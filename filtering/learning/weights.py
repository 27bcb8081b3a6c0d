"""The weights on disk: one file that all gateway processes map, replaced as a whole by an atomic rename.

Layout: 8 octets of magic, the length of a JSON header (32 bits, little-endian), the header, zeros up to a multiple
of 4,096, then the weights as little-endian float32. Never a pickle. The shipped base model is a compressed .npz of
8-bit weights, read without pickles; the first process that finds no file makes one from it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from filtering.learning.features import SLOT_BITS

BASE_MODEL = Path(__file__).with_name("base_model.npz")
MAGIC = b"LZWEIGH1"
PAGE_BYTES = 4096
SLOTS = 1 << SLOT_BITS
MAX_HEADER_BYTES = 16 * 1024 * 1024  # some 300,000 providers

Array = npt.NDArray[np.float32]


class BadWeights(Exception):
    """The file is no file of weights, or not one of this version."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """How many messages of each kind somebody taught."""

    ham: int = 0
    spam: int = 0

    @property
    def balanced(self) -> int:
        """Lessons that count as experience: twice the rarer kind, because one kind alone teaches no difference."""
        return 2 * min(self.ham, self.spam)

    def add(self, *, spam: bool) -> Lessons:
        return Lessons(self.ham + (not spam), self.spam + spam)


@dataclass(slots=True)
class Weights:
    """An array of weights and what it was taught. `array` is read-only unless opened for learning."""

    array: Array
    name: str
    lessons: dict[str, Lessons] = field(default_factory=dict)  # by provider; "" counts all that were taught


def make_empty() -> Weights:
    return Weights(np.zeros(SLOTS, np.float32), name="empty")


def open_weights(path: Path, *, writable: bool = False) -> Weights:
    """Map a file of weights; `writable` gives a private copy-on-write view. Raises OSError or BadWeights."""
    with path.open("rb") as stream:
        header, start = _read_header(stream.read(12), stream.fileno())
        if os.fstat(stream.fileno()).st_size != start + SLOTS * 4:
            raise BadWeights(f"{path} has the wrong length.")
        access = mmap.ACCESS_COPY if writable else mmap.ACCESS_READ
        mapped = mmap.mmap(stream.fileno(), 0, access=access)
    array = np.frombuffer(mapped, "<f4", count=SLOTS, offset=start)
    return Weights(array, str(header["name"]), {key: Lessons(*pair) for key, pair in header["lessons"].items()})


def _read_header(first: bytes, descriptor: int) -> tuple[dict[str, Any], int]:
    if len(first) != 12 or first[:8] != MAGIC:
        raise BadWeights("This is no file of weights.")
    (length,) = struct.unpack("<I", first[8:])
    if length > MAX_HEADER_BYTES:
        raise BadWeights("The header is too long.")
    try:
        header = json.loads(os.pread(descriptor, length, 12))
    except ValueError as error:
        raise BadWeights("The header cannot be read.") from error
    if not isinstance(header, dict) or header.get("bits") != SLOT_BITS:
        raise BadWeights("The weights are of another version.")
    return header, _round_up(12 + length)


def _round_up(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def publish(weights: Weights, path: Path, *, replace: bool = True) -> None:
    """Write the weights beside `path` and rename them into place, so that a reader sees the old or the new whole.

    Without `replace`, a file that somebody else published first is left as it is.
    """
    lessons = {key: [value.ham, value.spam] for key, value in weights.lessons.items()}
    header = json.dumps({"bits": SLOT_BITS, "name": weights.name, "lessons": lessons}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".weights-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write((MAGIC + struct.pack("<I", len(header)) + header).ljust(_round_up(12 + len(header)), b"\0"))
            stream.write(np.ascontiguousarray(weights.array, "<f4").data)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            Path(temporary).replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        _sync_directory(path.parent)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_base(path: Path = BASE_MODEL) -> Weights:
    """The weights that are shipped: a start for everybody, lessons of nobody."""
    with np.load(path, allow_pickle=False) as stored:
        packed, scale, name = stored["weights"], float(stored["scale"]), str(stored["name"])
    if packed.dtype != np.int8 or packed.shape != (SLOTS,):
        raise BadWeights(f"{path} is of another version.")
    return Weights(packed.astype(np.float32) * np.float32(scale), name)


def write_base(weights: Weights, path: Path, *, shrink: float) -> None:
    """Store weights as a base model: 8 bits each, shrunk, because they will judge mail of another origin."""
    largest = float(np.abs(weights.array).max()) or 1.0
    packed = np.rint(weights.array * (127 / largest)).astype(np.int8)
    scale = np.float32(largest / 127 * shrink)
    with path.open("wb") as stream:
        np.savez_compressed(stream, weights=packed, scale=scale, name=np.str_(weights.name))
