"""Signs of life in the database: one row a process, read by /healthz."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg
from django.db import Error, connection
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from portal.tenants.database import Pool

log = logging.getLogger(__name__)

BEAT_SECONDS = 5
GATEWAY_SECONDS = 15  # three missed beats, and it is taken for dead
RETENTION = "retention"  # no process: its rows are of quarantine.platform.rounds, and stay
UPSERT = (
    "INSERT INTO public.platform_heartbeat (part, instance, at) VALUES (%s, %s, now())"
    " ON CONFLICT (part, instance) DO UPDATE SET at = excluded.at"
)
TELL = "UPDATE public.platform_heartbeat SET rule_off_since = %s, lacks_space = %s WHERE part = %s AND instance = %s"
ALARMS = (
    "SELECT min(rule_off_since), count(rule_off_since), count(*), coalesce(bool_and(lacks_space), false)"
    " FROM public.platform_heartbeat WHERE part = 'gateway' AND at > now() - make_interval(secs => %s)"
)
_silent: set[str] = set()  # parts of this process whose last beat failed


@dataclass(frozen=True, slots=True)
class RuleOff:
    """That the reverse DNS rule is off: since when, and in how many of the gateways that live."""

    since: datetime
    gateways: int
    of: int


async def keep_beating(
    pool: Pool, part: str, instance: str, *, get_alarms: Callable[[], tuple[datetime | None, bool]] | None = None
) -> None:
    """Say every 5 seconds that `instance` of `part` is alive, until cancelled; waits for a database that is away.

    With `get_alarms`, also since when its reverse DNS rule is off, and whether it puts off all mail for lack of space.
    """
    silent = False
    while True:
        try:
            async with pool.connection() as database:
                await database.execute(UPSERT, (part, instance))
                if get_alarms:
                    await _tell(database, (*get_alarms(), part, instance))
            silent = False
        except (psycopg.Error, OSError) as error:
            if not silent:
                log.warning("heartbeat_failed part=%s instance=%s error=%s", part, instance, type(error).__name__)
            silent = True
        await asyncio.sleep(BEAT_SECONDS)


async def _tell(database: AsyncConnection[TupleRow], values: tuple[datetime | None, bool, str, str]) -> None:
    """Where that cannot be written, the process is alive all the same."""
    try:
        await database.execute(TELL, values)
    except psycopg.DatabaseError as error:
        log.warning("alarms_not_told error=%s", type(error).__name__)
        if database.broken:
            raise


def beat(part: str, instance: str) -> bool:
    """Say once that `instance` of `part` is alive, in whatever schema we are. Where the database is away: False, and
    a line in the log the first time.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(UPSERT, (part, instance))
    except Error as error:
        if part not in _silent:
            log.warning("heartbeat_failed part=%s instance=%s error=%s", part, instance, type(error).__name__)
        _silent.add(part)
        return False
    else:
        _silent.discard(part)
        return True
    finally:
        connection.close_if_unusable_or_obsolete()  # beat has no requests or tasks at whose end Django would do it


def find_rule_off() -> RuleOff | None:
    """What gateways said of it in their last beats; those that beat no more say nothing. None: the rule is on."""
    with connection.cursor() as cursor:
        cursor.execute(ALARMS, (GATEWAY_SECONDS,))
        since, gateways, of, _ = cursor.fetchone() or (None, 0, 0, False)
    return RuleOff(since, gateways, of) if since else None


def forget_silent() -> None:
    """Delete the rows of processes that have not beaten for an hour."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM public.platform_heartbeat WHERE at < now() - interval '1 hour' AND part <> %s", [RETENTION]
        )
