"""Mailboxes made on their first mail: what `provisioning.add_mailbox` makes, from asyncio and for nobody yet."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from portal.tenants.database import Pool

CONNECTION_SECONDS = 2.0  # to wait for a connection of the pool
AT_A_TIME = 50  # in one transaction, so that many large messages at once do not fill PostgreSQL's table of locks

# The same lock as provisioning.lock_address: no constraint spans mailboxes and aliases. Taken in one order.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(locked, 0)) FROM unnest(%s::text[]) AS locked"

# By the unique indexes of the two address columns.
MAKE = sql.SQL("""
WITH found AS (
    SELECT exact, base, domain_id, coalesce(
        (SELECT id FROM {schema}.people_mailbox WHERE address = exact),
        (SELECT mailbox_id FROM {schema}.people_mailboxalias WHERE address = exact),
        (SELECT id FROM {schema}.people_mailbox WHERE address = base),
        (SELECT mailbox_id FROM {schema}.people_mailboxalias WHERE address = base)
    ) AS id
    FROM unnest(%(exact)s::text[], %(base)s::text[], %(domain)s::bigint[]) AS wanted (exact, base, domain_id)
), made AS (
    INSERT INTO {schema}.people_mailbox (address, domain_id, wants_digest, created_at)
    SELECT DISTINCT base, domain_id, true, now() FROM found WHERE id IS NULL
    RETURNING id, address
)
SELECT found.exact, coalesce(found.id, made.id) FROM found LEFT JOIN made ON made.address = found.base
""")


async def make_mailboxes(pool: Pool, schema: str, wanted: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """The mailbox ids of addresses, given with their base address (without a tag) and the id of their domain.

    What is not there yet is made, once, whoever else does the same. All addresses are in lower case.
    """
    addresses = sorted(wanted)
    made: dict[str, int] = {}
    for start in range(0, len(addresses), AT_A_TIME):
        made |= await _make_some(pool, schema, {one: wanted[one] for one in addresses[start : start + AT_A_TIME]})
    return made


async def _make_some(pool: Pool, schema: str, wanted: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    bases = [base for base, _ in wanted.values()]
    locked = [f"{schema} {base}" for base in sorted(set(bases))]
    values = {"exact": list(wanted), "base": bases, "domain": [domain for _, domain in wanted.values()]}
    async with pool.connection(CONNECTION_SECONDS) as connection, connection.transaction():
        await connection.execute(LOCK, [locked])
        cursor = await connection.execute(MAKE.format(schema=sql.Identifier(schema)), values)
        return dict(await cursor.fetchall())
