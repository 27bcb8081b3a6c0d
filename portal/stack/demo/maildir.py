"""What arrived at the demo's mail server: a Maildir an address, below one folder."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

LOCAL_PART = re.compile(r"[a-z0-9_+-][a-z0-9._+=-]{0,63}")
DOMAIN = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,10}")
FILE_NAME = re.compile(r"[0-9]{10,20}\.[0-9A-Za-z_]{1,40}\.[a-z]{1,10}")
MAX_READ_BYTES = 8 * 1024 * 1024
numbers = itertools.count()


@dataclass(frozen=True)
class Arrival:
    address: str
    name: str
    at: datetime
    size: int


class Maildirs:
    """Maildirs named by their address, of `domains` or of any (None). Nothing but a plain address becomes a path."""

    def __init__(self, root: Path, domains: Iterable[str] | None) -> None:
        self.root = root
        self.domains = None if domains is None else frozenset(domains)

    def accepts(self, address: str) -> bool:
        local, _, domain = address.lower().rpartition("@")
        known = DOMAIN.fullmatch(domain) is not None if self.domains is None else domain in self.domains
        return known and LOCAL_PART.fullmatch(local) is not None

    def deliver(self, address: str, raw: bytes) -> Path:
        """Write the octets as they are; a reader sees the whole file or none."""
        if not self.accepts(address):
            raise ValueError("not an address of the demo")
        folder = self.root / address.lower()
        for name in ("tmp", "new", "cur"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns()}.{os.getpid()}_{next(numbers)}.demo"
        (folder / "tmp" / name).write_bytes(raw)
        return (folder / "tmp" / name).rename(folder / "new" / name)

    def list_addresses(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if self.accepts(path.name))

    def list_arrivals(self, address: str, limit: int) -> list[Arrival]:
        """The newest mail of an address first."""
        found = sorted(self._iter_files(address), key=lambda path: path.name, reverse=True)
        return [describe(address, path) for path in found[:limit]]

    def count(self, address: str) -> int:
        return sum(1 for _ in self._iter_files(address))

    def read(self, address: str, name: str, limit: int = MAX_READ_BYTES) -> bytes | None:
        """The mail's first octets (8 MiB); None where there is no such mail here."""
        path = self.find(address, name)
        if path is None:
            return None
        with path.open("rb") as stream:
            return stream.read(limit)

    def find(self, address: str, name: str) -> Path | None:
        if not self.accepts(address) or not FILE_NAME.fullmatch(name):
            return None
        path = self.root / address.lower() / "new" / name
        return path if path.is_file() and not path.is_symlink() else None

    def _iter_files(self, address: str) -> Iterator[Path]:
        folder = self.root / address.lower() / "new"
        if self.accepts(address) and folder.is_dir():
            yield from (path for path in folder.iterdir() if FILE_NAME.fullmatch(path.name))


def describe(address: str, path: Path) -> Arrival:
    at = datetime.fromtimestamp(int(path.name.partition(".")[0]) / 1e9, UTC)
    return Arrival(address, path.name, at, path.stat().st_size)
