"""A directory of labelled mail: which files are in it, what they are, and in which order they came."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filtering.learning.reading import MAX_HEADER_BYTES

LABELS = {"ham": False, "spam": True}
_DELIVERY_NUMBER = re.compile(r"inmail\.(\d+)$")
READ_BYTES = MAX_HEADER_BYTES  # nothing beyond this is learned from


class BadCorpus(Exception):
    """The directory or its manifest is not what was expected; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A file of mail and its label. `date` may be empty."""

    path: Path
    is_spam: bool
    date: str = ""

    def read(self) -> bytes:
        with self.path.open("rb") as stream:
            return stream.read(READ_BYTES)


def list_labelled(directory: Path, manifests: Iterable[Path] = ()) -> list[Labelled]:
    """The labelled mail in delivery order: by number (`inmail.00031`) if all have one, else by date and name.

    Labels come from the manifests (tab-separated, columns label, set, relpath, date) or, without any, from the
    folders `ham` and `spam` in a file's path. Raises BadCorpus.
    """
    manifests = list(manifests)
    if not directory.is_dir():
        raise BadCorpus(f"{directory} is no directory.")
    if manifests:
        found = [labelled for manifest in manifests for labelled in _read_manifest(directory, manifest)]
    else:
        found = list(_walk(directory))
    if not found:
        raise BadCorpus(f"{directory} has no files in folders named ham and spam.")
    numbers = {labelled.path: _DELIVERY_NUMBER.search(labelled.path.name) for labelled in found}
    if all(numbers.values()):
        return sorted(found, key=lambda labelled: int(numbers[labelled.path][1]))  # type: ignore[index]
    return sorted(found, key=lambda labelled: (labelled.date, str(labelled.path)))


def shuffle(found: Iterable[Labelled], root: Path) -> list[Labelled]:
    """An order that mixes all origins, and is the same every time."""
    return sorted(found, key=lambda labelled: hashlib.sha256(str(labelled.path.relative_to(root)).encode()).digest())


def _walk(directory: Path) -> Iterator[Labelled]:
    for folder, _, names in os.walk(directory):
        inside = Path(folder).relative_to(directory.parent).parts
        label = next((part for part in reversed(inside) if part in LABELS), None)
        if label is not None:
            yield from (Labelled(Path(folder, name), LABELS[label]) for name in names if not name.startswith("."))


def _read_manifest(directory: Path, manifest: Path) -> Iterator[Labelled]:
    try:
        with manifest.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
                path = directory / row["set"] / row["relpath"]
                yield Labelled(path, LABELS[row["label"]], row.get("date") or "")
    except KeyError as error:
        raise BadCorpus(f"{manifest} lacks {error}, or has it wrong.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadCorpus(f"{manifest} cannot be read: {error}") from error
