"""PostgreSQL for the asyncio processes (gateway, courier): schema-qualified SQL, no search_path, no Django."""

from __future__ import annotations

from typing import Any

from django.db import connections
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]
CONNECT_SECONDS = 5


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
        **extra,
    )


def make_pool(*, name: str, max_size: int) -> Pool:
    """A pool to be opened with `await pool.open()`. Taking a connection raises PoolTimeout while there is none."""
    return AsyncConnectionPool(
        get_conninfo(application_name=f"lazaret-{name}"),
        min_size=1,
        max_size=max_size,
        timeout=CONNECT_SECONDS,
        open=False,
        kwargs={"autocommit": True},
        check=AsyncConnectionPool.check_connection,
    )
