"""Servers of one's own, where the environment names them: do they answer?"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from kombu.connection import Connection

from portal.stack.process import StackError

CONNECT_SECONDS = 5


def check_servers(environment: Mapping[str, str]) -> None:
    """Raise StackError with a sentence that names the variable whose server does not answer."""
    try:
        psycopg.connect(environment["DATABASE_URL"], connect_timeout=CONNECT_SECONDS).close()
    except psycopg.Error as error:
        raise StackError(f"The server of DATABASE_URL does not let us in: {_first_line(error)}") from None
    try:
        with Connection(environment["BROKER_URL"], connect_timeout=CONNECT_SECONDS) as broker:  # type: ignore[no-untyped-call]
            broker.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
    except Exception as error:  # noqa: BLE001 - each transport has errors of its own
        raise StackError(f"The server of BROKER_URL does not let us in: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."
