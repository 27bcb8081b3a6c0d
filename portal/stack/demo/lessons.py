"""What the demo's classifier was taught before the demo's mail comes: variations of that same mail, with labels.

So the demo looks like an installation that has run for a while. How well the classifier does on mail that it does not
know is measured elsewhere (docs/filtering.md), never here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from portal.stack.demo.letters import DRAFTS, Draft, compose
from portal.stack.demo.letters.make import Kind, tidy

LESSONS = 100  # of each label
TAUGHT_AS_SPAM = {Kind.SPAM, Kind.ALLOWED_SENDER}  # whom a rule lets through all the same
TAUGHT_AS_HAM = {Kind.CLEAN, Kind.NEWSLETTER, Kind.BOUNCE, Kind.ODD_REVERSE_DNS}


def write_lessons(folder: Path) -> int:
    """Write the lessons as files below `ham` and `spam`, the same every time; how many."""
    chance = random.Random(2026)  # noqa: S311 - the same lessons every time
    for offset, (label, kinds) in enumerate((("ham", TAUGHT_AS_HAM), ("spam", TAUGHT_AS_SPAM))):
        drafts = [draft for draft in DRAFTS if draft.kind in kinds and draft.text]
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(LESSONS):
            raw = compose(vary(drafts, number, chance), datetime(2026, 1, 5, tzinfo=UTC) + timedelta(hours=number))
            (folder / label / f"inmail.{2 * number + offset:05}").write_bytes(raw)  # taught by turns
    return 2 * LESSONS


def vary(drafts: Sequence[Draft], number: int, chance: random.Random) -> Draft:
    """A message like one of the drafts, with lines of another mixed in, and half of the time its HTML."""
    base, other = drafts[number % len(drafts)], chance.choice(drafts)
    lines = [line for line in tidy(base.text).splitlines() if line and chance.random() < 0.8]
    extra = [line for line in tidy(other.text).splitlines() if line and chance.random() < 0.3]
    return Draft(
        name=f"lesson-{number}",
        kind=base.kind,
        ip="",
        sender=chance.choice((base, other)).sender or "mailer-daemon@mail.example",
        to=base.to,
        subject=chance.choice((base, base, other)).subject,
        text="\n".join([*lines, *extra]) + "\n",
        html=base.html if chance.random() < 0.5 else "",
        author=base.author,
        headers=tuple((name, value) for name, value in base.headers if name != "In-Reply-To"),
    )
