"""The labelled mail that may lie beside the project: unpacked once a run, read as an SMTP client would send it."""

from __future__ import annotations

import csv
import io
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import zstandard

LARGE_WINDOW = 1 << 27


@dataclass(frozen=True)
class Sample:
    """A labelled message: where it lies, what it is, who sent it."""

    path: Path
    is_spam: bool
    mail_from: str
    sha256: str

    def read(self) -> bytes:
        return smtp_octets(self.path.read_bytes())


def smtp_octets(raw: bytes) -> bytes:
    """The file as it went over the wire: no mbox line, CRLF line ends."""
    raw = re.sub(rb"\r\n|\r|\n", b"\r\n", raw)
    if raw.startswith((b"From ", b">From ")):
        raw = raw[raw.index(b"\n") + 1 :]
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


def unpack(corpora: Path, name: str, to: Path) -> Path:
    """Unpack the archive `name` below `to`; returns its folder."""
    with (
        open(corpora / f"{name}.tar.zst", "rb") as packed,
        zstandard.ZstdDecompressor(max_window_size=LARGE_WINDOW).stream_reader(packed) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        archive.extractall(to, filter="data")
    return to / name


def list_samples(corpora: Path, name: str, folder: Path) -> list[Sample]:
    """All labelled messages of a set, in the order of the manifest."""
    plain = corpora / f"{name}.MANIFEST.tsv"
    if plain.is_file():
        text = plain.read_text()
    else:
        packed = (corpora / f"{name}.MANIFEST.tsv.zst").read_bytes()
        reader = zstandard.ZstdDecompressor(max_window_size=LARGE_WINDOW).stream_reader(io.BytesIO(packed))
        text = reader.read().decode()
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        Sample(folder / row["relpath"], row["label"] == "spam", row["mail_from"], row["sha256"])
        for row in rows
        if row["label"] in {"ham", "spam"}
    ]


def delivery_order(samples: list[Sample]) -> list[Sample]:
    """In the order of the number in `inmail.NNNNN`."""
    return sorted(samples, key=lambda sample: int(sample.path.name.rpartition(".")[2]))
