"""Messages whose commit PostgreSQL did not answer: stored or not, their senders were told to come again."""

from __future__ import annotations

import time
from collections.abc import Iterable

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from quarantine.records import REMEMBER, UNHEARD_SECONDS, Filing, Unrouted

# By then it has ended what it was doing for a connection that we gave up: longer than it may take for a statement.
LOOK_AGAIN_SECONDS = 20.0


class Doubts:
    """Sees to it that such a message is known when it comes again, however long its sender waits, if it was stored.

    Its receipt is looked for twice: when PostgreSQL is back, and once more where it was not found, as a server that had
    hung may just be finishing the commit.
    """

    def __init__(self) -> None:
        self._receipts: dict[bytes, str] = {}  # with the trace id under which it would be stored
        self._look_again_at: float | None = None

    def __len__(self) -> int:
        return len(self._receipts)

    @property
    def are_due(self) -> bool:
        """Whether it is time for the second look."""
        return self._look_again_at is not None and time.monotonic() >= self._look_again_at

    def add(self, records: Iterable[Filing | Unrouted]) -> None:
        for record in records:
            if isinstance(record, Filing) and record.receipt is not None:
                self._receipts[record.receipt] = record.transaction.trace_id
                self._look_again_at = None

    async def settle(self, connection: AsyncConnection[TupleRow]) -> None:
        """Have those that were stored known for a day. A receipt that somebody holds locked is not waited for."""
        if not self._receipts:
            return
        is_last = self.are_due
        fingerprints, trace_ids = list(self._receipts), list(self._receipts.values())
        values = {"fingerprints": fingerprints, "trace_ids": trace_ids, "seconds": UNHEARD_SECONDS}
        cursor = await connection.execute(REMEMBER, values)
        for (fingerprint,) in await cursor.fetchall():
            self._receipts.pop(fingerprint, None)
        if is_last:
            self._receipts.clear()
        self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS if self._receipts else None
