"""PostgreSQL for the asyncio processes (gateway, courier): schema-qualified SQL, no search_path, no Django."""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import connection, connections
from psycopg import AsyncConnection, AsyncCursor, AsyncRawCursor, Error, InterfaceError, OperationalError
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import AsyncConnectionPool

T = TypeVar("T")
Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]
CONNECT_SECONDS = 5
# After this long the pool stops trying by itself and the next who asks starts anew: its growing pauses would
# otherwise keep us away from a server that is back.
RECONNECT_SECONDS = 3.0
IDLE_SECONDS = 60  # then a connection that was made for a moment's need is closed
PREPARED = 4096  # statements of a connection: a few for each provider
READ_ONLY = "25006"
OUTAGES = {"08", "53", "57", "58"}  # connection, resources (disk, memory, connections), operator, system
SILENCE_MILLISECONDS = 10_000  # a server that acknowledges nothing for so long is gone
CANCEL_AGAIN_SECONDS = 1.0
PLACEHOLDER = re.compile(rb"%(?:\((\w+)\))?[sb]")


@dataclass(frozen=True, slots=True)
class Query:
    """A statement with $1, $2, ... as PostgreSQL wants it, made once. psycopg makes these of %s, but remembers only the
    last 128, and a thousand providers have some thousands.
    """

    text: bytes
    names: tuple[str, ...]  # of the values, in that order; empty where these are not named

    @classmethod
    def from_text(cls, text: bytes) -> Query:
        """From a statement with %s, or with %(name)s, but not both, and without any other %. Raises ValueError."""
        names: dict[str, int] = {}

        def number(found: re.Match[bytes]) -> bytes:
            name = (found[1] or b"").decode() or f"#{len(names)}"
            return b"$%d" % names.setdefault(name, len(names) + 1)

        numbered = PLACEHOLDER.sub(number, text)
        named = tuple(name for name in names if not name.startswith("#"))
        if b"%" in numbered or len(named) not in {0, len(names)}:
            raise ValueError("placeholders of two kinds, or a % that is none")
        return cls(numbered, named)

    async def execute(
        self, connection: AsyncConnection[TupleRow], values: Mapping[str, Any] | Sequence[Any]
    ) -> AsyncCursor[TupleRow]:
        chosen = [values[name] for name in self.names] if isinstance(values, Mapping) else values
        return await AsyncRawCursor(connection).execute(self.text, chosen)


def get_schema() -> str:
    """The schema that Django's connection of this thread is in."""
    return str(connection.schema_name)  # type: ignore[attr-defined]


def get_conninfo(**extra: Any) -> str:
    """Where Django's default database is, as psycopg wants it (in tests: the test database)."""
    database = connections["default"].settings_dict
    return make_conninfo(
        host=database["HOST"] or None,
        port=database["PORT"] or None,
        dbname=database["NAME"],
        user=database["USER"] or None,
        password=database["PASSWORD"] or None,
        connect_timeout=CONNECT_SECONDS,
        tcp_user_timeout=SILENCE_MILLISECONDS,
        **extra,
    )


def make_pool(*, name: str, max_size: int, statement_seconds: float = 0, lock_seconds: float = 0) -> Pool:
    """A pool to be opened with `await pool.open()`. Taking a connection raises PoolTimeout while there is none.

    PostgreSQL itself gives up a statement after `statement_seconds`, one that waits for a lock after `lock_seconds`
    (0: never). For statements that all go by an index: a plan is made once, maybe while a table was new and small, and
    would go through the whole of it when it has grown.
    """

    async def configure(connection: AsyncConnection[TupleRow]) -> None:
        connection.prepared_max = PREPARED
        # By their size, as psycopg does it, each number would make another statement of the same text.
        connection.adapters.register_dumper(int, Int8Dumper)
        await connection.execute("SET enable_seqscan = off")
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"SET statement_timeout = {round(statement_seconds * 1000)}")
        await connection.execute(f"SET lock_timeout = {round(lock_seconds * 1000)}")

    return AsyncConnectionPool(
        get_conninfo(application_name=f"lazaret-{name}"),
        min_size=1,
        max_size=max_size,
        timeout=CONNECT_SECONDS,
        open=False,
        kwargs={"autocommit": True, "prepare_threshold": 0},
        max_idle=IDLE_SECONDS,
        reconnect_timeout=RECONNECT_SECONDS,
        check=check_connection,
        configure=configure,
    )


async def check_connection(connection: AsyncConnection[TupleRow]) -> None:
    """Raise when the server has left. A quiet socket is a good one: only one with news costs a round trip."""
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    if poller.poll(0):
        await AsyncConnectionPool.check_connection(connection)


def is_outage(error: BaseException) -> bool:
    """Whether PostgreSQL as a whole is out of reach, full, read-only or stopping; else it refused what it was asked.

    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    if isinstance(error, Error) and error.sqlstate:
        return error.sqlstate == READ_ONLY or error.sqlstate[:2] in OUTAGES
    return isinstance(error, OperationalError | InterfaceError | OSError)


async def end_all(tasks: Iterable[asyncio.Task[Any]]) -> list[Any]:
    """Cancel the tasks and wait for their end; returns their results or exceptions.

    One that goes on is cancelled again: before Python 3.12, `asyncio.wait_for` loses a cancellation that comes together
    with what it waits for (https://github.com/python/cpython/issues/86296), and psycopg's pool waits with it.
    """
    tasks = list(tasks)
    going_on = set(tasks)
    while going_on:
        for task in going_on:
            task.cancel()
        _, going_on = await asyncio.wait(going_on, timeout=CANCEL_AGAIN_SECONDS)
    return await asyncio.gather(*tasks, return_exceptions=True)


_left_alone: set[asyncio.Task[Any]] = set()


async def finish_within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work; TimeoutError after so many seconds, whatever the server does.

    The work is cancelled then, but not waited for: against a server that says nothing, psycopg takes long over it.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            _left_alone.add(task)
            task.add_done_callback(_forget)
    if not task.done():
        raise TimeoutError
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    _left_alone.discard(task)
    if not task.cancelled():
        task.exception()  # it is known already that nothing came of it
