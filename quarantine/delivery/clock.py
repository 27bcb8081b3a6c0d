"""What waits for a time that no schedule could have set: the clock was ahead, and was put right."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import psycopg

from portal.tenants.database import Pool
from quarantine.delivery.outcome import LONGEST_PAUSE_SECONDS

log = logging.getLogger(__name__)

LOOK_SECONDS = 300
LONGEST_WAIT_SECONDS = LONGEST_PAUSE_SECONDS * 1.1 + 60  # of what was tried; the pause may be a tenth longer
UNTRIED_WAIT_SECONDS = 60  # all others are due when they are made
BATCH = 10_000  # jobs a transaction

# One step a (lane, domain), as rows.LIST_BACKLOG; of each, only what lies beyond the time: index delivery_job_due.
HASTEN_BEYOND = """
WITH RECURSIVE place AS (
    (SELECT lane, domain_id FROM public.platform_deliveryjob ORDER BY lane, domain_id LIMIT 1)
    UNION ALL
    SELECT further.lane, further.domain_id FROM place CROSS JOIN LATERAL (
        SELECT j.lane, j.domain_id FROM public.platform_deliveryjob j
        WHERE (j.lane, j.domain_id) > (place.lane, place.domain_id) ORDER BY j.lane, j.domain_id LIMIT 1
    ) further
),
found AS MATERIALIZED (
    SELECT beyond.id FROM place CROSS JOIN LATERAL (
        SELECT j.id FROM public.platform_deliveryjob j
        WHERE j.lane = place.lane AND j.domain_id = place.domain_id
        AND j.due_at > now() + make_interval(secs => %(seconds)s) AND j.attempts <= %(attempts)s AND j.claimed_by = ''
        FOR UPDATE SKIP LOCKED
    ) beyond LIMIT %(batch)s
)
UPDATE public.platform_deliveryjob j SET due_at = now() FROM found WHERE j.id = found.id
"""
ANY_ATTEMPTS = 2**31 - 1


async def keep_hastening(pool: Pool, on_due: Callable[[], None]) -> None:
    """See at once, and every five minutes, that nothing waits so; until cancelled.

    What was never tried is looked for at once only: for that, all that waits is walked through.
    """
    untried = True
    while True:
        try:
            count = await _hasten(pool, LONGEST_WAIT_SECONDS, ANY_ATTEMPTS)
            if untried:
                count += await _hasten(pool, UNTRIED_WAIT_SECONDS, 0)
                untried = False
            if count:
                log.warning("clock_was_set jobs=%d", count)
                on_due()
        except psycopg.Error as error:
            log.warning("clock_not_looked_at error=%s", type(error).__name__)
        await asyncio.sleep(LOOK_SECONDS)


async def _hasten(pool: Pool, seconds: float, attempts: int) -> int:
    total, found = 0, BATCH
    while found == BATCH:
        async with pool.connection() as database:
            values = {"seconds": seconds, "attempts": attempts, "batch": BATCH}
            found = (await database.execute(HASTEN_BEYOND, values)).rowcount
        total += found
    return total
