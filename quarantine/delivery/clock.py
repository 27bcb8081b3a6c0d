"""What waits for a time that no schedule could have set: the clock was ahead, and was put right."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import psycopg

from portal.tenants.database import Pool
from quarantine.delivery.outcome import LONGEST_PAUSE_SECONDS
from quarantine.delivery.rows import LEASE_SECONDS, PLACES

log = logging.getLogger(__name__)

Claim = tuple[Any, ...]  # a job's id, and until when
LOOK_SECONDS = 300  # longer than a lease
LONGEST_WAIT_SECONDS = LONGEST_PAUSE_SECONDS * 1.1 + 60  # of what was tried; the pause may be a tenth longer
UNTRIED_WAIT_SECONDS = 60  # all others are due when they are made
BATCH = 10_000  # jobs a transaction

# Of each place only what lies beyond the time: index delivery_job_due.
HASTEN_BEYOND = """
{places},
found AS MATERIALIZED (
    SELECT beyond.id FROM place CROSS JOIN LATERAL (
        SELECT j.id FROM public.platform_deliveryjob j
        WHERE j.lane = place.lane AND j.domain_id = place.domain_id
        AND j.due_at > now() + make_interval(secs => %(seconds)s) AND j.attempts <= %(attempts)s AND j.claimed_by = ''
        FOR UPDATE SKIP LOCKED
    ) beyond LIMIT %(batch)s
)
UPDATE public.platform_deliveryjob j SET due_at = now() FROM found WHERE j.id = found.id
""".replace("{places}", PLACES)
ANY_ATTEMPTS = 2**31 - 1
# No lease is that long. Index delivery_job_claimed.
LIST_ENDLESS = """
SELECT id, claimed_until FROM public.platform_deliveryjob
WHERE claimed_by <> '' AND claimed_until > now() + make_interval(secs => %s) LIMIT %s
"""
FREE = """
UPDATE public.platform_deliveryjob j SET claimed_by = '', claimed_until = NULL, due_at = least(j.due_at, now())
FROM unnest(%s::bigint[], %s::timestamptz[]) AS e (id, claimed_until)
WHERE j.id = e.id AND j.claimed_until = e.claimed_until
"""
CLOCK = "SELECT extract(epoch FROM now())::float8"


async def keep_hastening(pool: Pool, on_due: Callable[[], None]) -> None:
    """See at once, and every five minutes, that nothing waits so; until cancelled.

    What was never tried is looked for at once, and when the database's clock has gone back: for that, all that waits is
    walked through.
    """
    before = math.inf
    endless: list[Claim] = []
    while True:
        try:
            ahead = await _read_clock(pool) - time.monotonic()
            # Whoever has such a lease is no more, or has renewed it meanwhile.
            count = await _free(pool, endless) + await _hasten(pool, LONGEST_WAIT_SECONDS, ANY_ATTEMPTS)
            endless = await _list_endless(pool)
            if ahead < before - UNTRIED_WAIT_SECONDS:
                count += await _hasten(pool, UNTRIED_WAIT_SECONDS, 0)
            before = ahead
            if count:
                log.warning("clock_was_set jobs=%d", count)
                on_due()
        except psycopg.Error as error:
            log.warning("clock_not_looked_at error=%s", type(error).__name__)
        await asyncio.sleep(LOOK_SECONDS)


async def _read_clock(pool: Pool) -> float:
    async with pool.connection() as database:
        [(seconds,)] = await (await database.execute(CLOCK)).fetchall()
    return float(seconds)


async def _list_endless(pool: Pool) -> list[Claim]:
    async with pool.connection() as database:
        return await (await database.execute(LIST_ENDLESS, [2 * LEASE_SECONDS, BATCH])).fetchall()


async def _free(pool: Pool, endless: list[Claim]) -> int:
    if not endless:
        return 0
    async with pool.connection() as database:
        ids, untils = map(list, zip(*endless, strict=True))
        return (await database.execute(FREE, [ids, untils])).rowcount


async def _hasten(pool: Pool, seconds: float, attempts: int) -> int:
    total, found = 0, BATCH
    while found == BATCH:
        async with pool.connection() as database:
            values = {"seconds": seconds, "attempts": attempts, "batch": BATCH}
            found = (await database.execute(HASTEN_BEYOND, values)).rowcount
        total += found
    return total
