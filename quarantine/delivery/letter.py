"""A letter: one message for one or more recipients at the same server, in one SMTP transaction."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass

from portal.tenants.database import Pool
from quarantine.content import ContentDamagedError, ContentGoneError, restore
from quarantine.delivery import rows
from quarantine.delivery.outcome import Job
from quarantine.delivery.rows import SMALL, Row
from quarantine.delivery.smtp import Envelope
from quarantine.delivery.wire import Mark, Origin, encode, make_head

MAX_RECIPIENTS = 100  # what every server takes in a transaction (RFC 5321 4.5.3.1.8)


@dataclass(slots=True)
class Letter:
    """Jobs and their recipient rows, in the same order; all of one message."""

    schema: str
    jobs: list[Job]
    rows: list[Row]
    stored: tuple[int, bytes] | None = None  # codec and data, where they were loaded already
    begun: float = 0.0  # the try that is under way; by the monotonic clock

    @property
    def message(self) -> Row:
        return self.rows[0]

    @property
    def envelope(self) -> Envelope:
        return Envelope(self.message.sender, tuple(row.address for row in self.rows))

    @property
    def seconds(self) -> float:
        """How long the try has taken by now."""
        return time.monotonic() - self.begun

    @property
    def is_small(self) -> bool:
        """Whether it is loaded with others, and encoded on the event loop."""
        return self.message.size <= SMALL


def get_mark(row: Row) -> Mark | None:
    return Mark(row.category, row.score) if row.action == "tag" else None


def make_letters(schema: str, jobs: list[Job], found: dict[int, Row]) -> list[Letter]:
    """Put together what can go in one transaction: same message, same mark, few enough recipients."""
    groups: dict[tuple[int, Mark | None], list[Job]] = defaultdict(list)
    for job in jobs:
        row = found[job.recipient_id]
        groups[row.message_id, get_mark(row)].append(job)
    letters = []
    for group in groups.values():
        for start in range(0, len(group), MAX_RECIPIENTS):
            part = group[start : start + MAX_RECIPIENTS]
            their_rows = [found[job.recipient_id] for job in part]
            letters.append(Letter(schema, part, their_rows, their_rows[0].stored))
    return letters


async def load_small(pool: Pool, letters: list[Letter]) -> None:
    """Load the content of the small ones that came without it, in one round trip."""
    small = [letter for letter in letters if letter.is_small and letter.stored is None]
    if not small:
        return
    wanted: dict[str, set[int]] = defaultdict(set)
    for letter in small:
        wanted[letter.schema].add(letter.message.message_id)
    contents = await rows.load_contents(pool, {schema: sorted(ids) for schema, ids in wanted.items()})
    for letter in small:
        letter.stored = contents[letter.schema].get(letter.message.message_id)


async def pack(pools: rows.Pools, letter: Letter, *, hostname: str) -> bytes:
    """The encoded message with our header lines. Raises ContentGoneError, ContentDamagedError, psycopg.Error."""
    if letter.stored is None:
        async with pools.turns:
            contents = await rows.load_contents(pools.apart, {letter.schema: [letter.message.message_id]})
        letter.stored = contents[letter.schema].get(letter.message.message_id)
    if letter.stored is None:
        raise ContentGoneError(letter.message.trace_id)
    if letter.is_small:
        return encode_letter(letter, hostname)
    return await asyncio.to_thread(encode_letter, letter, hostname)


def encode_letter(letter: Letter, hostname: str) -> bytes:
    if letter.stored is None:
        raise ContentGoneError(letter.message.trace_id)
    message = letter.message
    codec, data = letter.stored
    raw = restore(codec, data, size=message.size, sha256=bytes(message.sha256 or b""))
    origin = Origin(
        trace_id=message.trace_id,
        received_at=message.received_at,
        client_ip=message.client_ip,
        ptr_name=message.ptr_name,
        helo=message.helo,
        tls=message.tls,
    )
    recipients = tuple(row.address for row in letter.rows)
    return encode(make_head(origin, hostname=hostname, recipients=recipients, mark=get_mark(message)), raw)


__all__ = ["ContentDamagedError", "ContentGoneError", "Letter", "load_small", "make_letters", "pack"]
