"""What the person who started the stack sees: progress, one table, then only events that matter."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

WIDTH = 13


class Console:
    """Lines on standard output; events go to a log as well. A reader that went away stops nothing."""

    def __init__(self) -> None:
        self.log: Path | None = None
        self.started_at = time.monotonic()
        self.live = sys.stdout.isatty()

    def say(self, text: str = "", *, end: str = "\n") -> None:
        with suppress(OSError, ValueError):
            print(text, end=end, flush=True)

    def step(self, name: str) -> Step:
        """Begin a step; `step.done(...)` ends its line."""
        return Step(self, name)

    def event(self, name: str, **values: object) -> None:
        """Report an event of the running stack, as `event key=value`."""
        line = " ".join([f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", name, *(f"{k}={v}" for k, v in values.items())])
        self.say(line)
        if self.log:
            with suppress(OSError), self.log.open("a") as stream:
                stream.write(f"{line}\n")

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """Rows in aligned columns."""
        widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
        for row in rows:
            self.say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


class Step:
    """One line of progress: its name at once where the output is a terminal, its outcome and seconds at the end."""

    def __init__(self, console: Console, name: str) -> None:
        self.console = console
        self.name = name.ljust(WIDTH)
        self.started_at = time.monotonic()
        if console.live:
            console.say(f"  {self.name} ...", end="")

    def update(self, text: str) -> None:
        """Say how far it is, where the line can be written again."""
        if self.console.live and text:
            self.console.say(f"\r\033[K  {self.name} {text[:60]}", end="")

    def done(self, outcome: str) -> None:
        seconds = time.monotonic() - self.started_at
        again = "\r\033[K" if self.console.live else ""
        self.console.say(f"{again}  {self.name} {outcome} ({seconds:.1f} s)")
