"""What was said in a transaction, read from its record: each command, our reply, and how long after its beginning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quarantine.records import END_OF_DATA

RCPT = re.compile(r"RCPT\s+TO:\s*<(.*)>", re.IGNORECASE)
LONG_SECONDS = 120  # from here on minutes are easier to read


@dataclass(frozen=True, slots=True)
class Exchange:
    command: str  # empty: nothing was said yet
    reply: str
    seconds: float | None = None  # since the transaction began; None: not on record

    @property
    def recipient(self) -> str:
        """Whose RCPT it is, in lower case; empty: none's."""
        named = RCPT.fullmatch(self.command.strip())
        return named.group(1).lower() if named else ""

    @property
    def is_of_content(self) -> bool:
        """Whether content was sent, or began to be: for those recipients who had been accepted, and for no other."""
        is_asked_for = self.command[:4].upper() in {"DATA", "BDAT"} and self.reply[:1] in {"2", "3"}
        return self.command == END_OF_DATA or is_asked_for

    @property
    def after(self) -> str:
        """How long after the beginning, for people; empty where that is not on record."""
        if self.seconds is None:
            return ""
        return f"{self.seconds / 60:.1f} min" if self.seconds > LONG_SECONDS else f"{self.seconds:.1f} s"


def read_said(stored: Any) -> list[Exchange]:
    """The elements [command, reply] or [command, reply, seconds]; what has another form is left out."""
    lines = stored if isinstance(stored, list) else []
    return [_read(line) for line in lines if isinstance(line, list | tuple) and len(line) in {2, 3}]


def _read(line: Sequence[Any]) -> Exchange:
    seconds = line[2] if len(line) == 3 else None
    return Exchange(str(line[0]), str(line[1]), float(seconds) if isinstance(seconds, int | float) else None)


def find_answer(said: Sequence[Exchange], address: str) -> str:
    """The last answer to RCPT for that address; empty where there is none on record."""
    wanted = address.lower()
    return next((one.reply for one in reversed(said) if one.recipient == wanted), "")


def count_before_content(said: Sequence[Exchange]) -> int:
    """How many exchanges there were before content was sent: all, where none was."""
    return next((place for place, one in enumerate(said) if one.is_of_content), len(said))
