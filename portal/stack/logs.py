"""The children's logs: errors are shown on the console, and no log grows for ever."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from portal.stack.console import Console

LOOK_SECONDS = 1.0
MAX_LOG_BYTES = 64 * 1024 * 1024
MAX_LOOK_BYTES = 1024 * 1024
MAX_LINES = 5  # of one log at one look
IMPORTANT = re.compile(rb"\b(ERROR|CRITICAL|PANIC)\b")
QUIET = {"postgres"}  # a statement that fails is an error of its caller, who reports it


class LogWatch:
    """Follows the logs in a directory from where they end now."""

    def __init__(self, logs: Path, console: Console) -> None:
        self.logs = logs
        self.console = console
        self.seen = {path: path.stat().st_size for path in logs.glob("*.log")}

    async def follow(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for path in self.logs.glob("*.log"):
                if path.stem != "supervisor":
                    self._look(path)

    def _look(self, path: Path) -> None:
        size = path.stat().st_size
        start = min(self.seen.get(path, 0), size)
        self.seen[path] = size
        if size > start and path.stem not in QUIET:
            self._show(path, start, size)
        if size > MAX_LOG_BYTES:
            self._rotate(path)

    def _show(self, path: Path, start: int, end: int) -> None:
        with path.open("rb") as stream:
            stream.seek(max(start, end - MAX_LOOK_BYTES))
            lines = [line for line in stream.read(end - start).splitlines() if IMPORTANT.search(line)]
        for line in lines[:MAX_LINES]:
            self.console.say(f"{path.stem}: {line[:300].decode(errors='replace')}")
        if len(lines) > MAX_LINES:
            self.console.say(f"{path.stem}: {len(lines) - MAX_LINES} more lines like these in {path}")

    def _rotate(self, path: Path) -> None:
        """Keep one older file. The processes append to the same file, so it is emptied, not moved."""
        shutil.copyfile(path, path.with_suffix(".log.1"))
        path.with_suffix(".log.1").chmod(0o600)
        with path.open("r+b") as stream:
            stream.truncate(0)
        self.seen[path] = 0


def read_last_line(path: Path, since: int = 0) -> str:
    """The last line after offset `since` that says something; empty while there is none."""
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - 4096, since))
        lines = [line.strip() for line in stream.read().splitlines() if line.strip()]
    return lines[-1].decode(errors="replace")[:300] if lines else ""
