"""Signs of life in the database: one row a process, read by /healthz."""

from __future__ import annotations

import asyncio
import logging

import psycopg
from django.db import Error, connection

from portal.tenants.database import Pool

log = logging.getLogger(__name__)

BEAT_SECONDS = 5
UPSERT = (
    "INSERT INTO public.platform_heartbeat (part, instance, at) VALUES (%s, %s, now())"
    " ON CONFLICT (part, instance) DO UPDATE SET at = excluded.at"
)


async def keep_beating(pool: Pool, part: str, instance: str) -> None:
    """Say every 5 seconds that `instance` of `part` is alive, until cancelled; waits for a database that is away."""
    silent = False
    while True:
        try:
            async with pool.connection() as database:
                await database.execute(UPSERT, (part, instance))
            silent = False
        except (psycopg.Error, OSError) as error:
            if not silent:
                log.warning("heartbeat_failed part=%s instance=%s error=%s", part, instance, type(error).__name__)
            silent = True
        await asyncio.sleep(BEAT_SECONDS)


def beat(part: str, instance: str) -> None:
    """Say once that `instance` of `part` is alive, in whatever schema we are; only logs that the database is away."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(UPSERT, (part, instance))
    except Error as error:
        log.warning("heartbeat_failed part=%s instance=%s error=%s", part, instance, type(error).__name__)
    finally:
        connection.close_if_unusable_or_obsolete()  # beat has no requests or tasks at whose end Django would do it


def forget_silent() -> None:
    """Delete the rows of processes that have not beaten for an hour."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM public.platform_heartbeat WHERE at < now() - interval '1 hour'")
