"""The messages of a benchmark: a directory, a set of the corpora beside the project, or a small set made here."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import zstandard
from sender import make_wire

MADE = 400
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
TEXT = (
    "the order arrives on monday with two boxes of paper and one of ink please sign for it and tell us when the lift"
    " works again because the driver cannot carry them up to the third floor alone thank you and kind regards"
)
WORDS = TEXT.split()


def read_messages(source: Path | None, *, skip: int = 0) -> list[bytes]:
    """The messages as they go over the wire. Raises ValueError where there is none."""
    found = _make() if source is None else _unpack(source) if source.is_file() else _walk(source)
    messages = [make_wire(raw) for raw in found if raw][skip:]
    if not messages:
        raise ValueError(f"there is no message in {source}")
    return messages


def _walk(directory: Path) -> Iterator[bytes]:
    """By the last part of the name, so that folders of spam and ham are mixed as they were received."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name, path)):
        yield path.read_bytes()


def _unpack(archive: Path) -> Iterator[bytes]:
    """The messages of a .tar.zst, which are those in folders named ham and spam."""
    found: list[tuple[str, bytes]] = []
    with (
        archive.open("rb") as packed,
        zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(packed) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and {"ham", "spam"} & set(parts):
                content = tar.extractfile(member)
                assert content is not None
                found.append((parts[-1], content.read()))
    for _, raw in sorted(found):
        yield raw


def _make() -> Iterator[bytes]:
    """Letters of many sizes, the same every time; every third is spam to any filter, some carry an attachment."""
    dice = random.Random(2007)  # noqa: S311 - not for secrets
    for number in range(MADE):
        letter = EmailMessage()
        letter["From"] = f"Sender {number} <sender{number}@benchmark.test>"
        letter["To"] = "Recipient <recipient@benchmark.test>"
        letter["Subject"] = f"Letter {number} about " + " ".join(dice.choices(WORDS, k=4))
        letter["Date"] = "Mon, 23 Nov 2026 10:00:00 +0000"
        letter["Message-ID"] = f"<{number}.{dice.getrandbits(64):x}@benchmark.test>"
        lines = [" ".join(dice.choices(WORDS, k=12)) for _ in range(int(dice.lognormvariate(3.4, 1.0)))]
        letter.set_content("\n".join([*([GTUBE] if number % 3 == 0 else []), *lines, ""]))
        if number % 5 == 0:
            octets = dice.randbytes(int(dice.lognormvariate(9.5, 1.0)))
            letter.add_attachment(octets, maintype="application", subtype="pdf", filename=f"order-{number}.pdf")
        yield letter.as_bytes()
