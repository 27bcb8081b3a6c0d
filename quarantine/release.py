"""The one way out of the quarantine: a person's decision, as one guarded change of state.

Releasing writes state, trace and delivery job in one statement; the courier does the rest, and calls the row
`released` only after the customer's server answered 250. A row that somebody else released or deleted meanwhile is
not touched and not counted, so that doing it twice does nothing twice.
"""

from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet

from portal.tenants.database import get_schema
from quarantine.models import Recipient, State
from quarantine.platform.models import Lane
from quarantine.retention import drop_unneeded

# `held` is what the customer's server refused, or did not take in five days: releasing it tries again.
# `expired` is not here: its content is gone.
RELEASABLE = (State.QUARANTINED.value, State.HELD.value)
DELETABLE = (State.QUARANTINED.value, State.HELD.value)

# Rows are locked in the order of their ids, so that two people who release the same ones never deadlock.
CHOOSE = "chosen AS (SELECT id FROM quarantine_recipient WHERE id = ANY(%(ids)s) AND state = ANY(%(from)s)"
CHANGE = """
WITH {choose}{condition} ORDER BY id FOR UPDATE),
changed AS (
    UPDATE quarantine_recipient r SET state = %(to)s, changed_at = now(), changed_by = %(by)s, reply = '', attempts = 0
    FROM chosen WHERE r.id = chosen.id RETURNING r.id, r.message_id, r.domain_id
),
traced AS (
    INSERT INTO quarantine_event (message_id, recipient_id, at, kind, text, actor)
    SELECT message_id, id, now(), %(kind)s, '', %(by)s FROM changed
){more}
SELECT message_id FROM changed
"""
WITH_CONTENT = " AND EXISTS (SELECT 1 FROM quarantine_content c WHERE c.message_id = quarantine_recipient.message_id)"
QUEUE = """,
queued AS (
    INSERT INTO public.platform_deliveryjob (schema, recipient_id, domain_id, lane)
    SELECT %(schema)s, id, domain_id, %(lane)s FROM changed ORDER BY id
    ON CONFLICT (schema, recipient_id) DO UPDATE
    SET lane = excluded.lane, due_at = now(), attempts = 0, created_at = now(), claimed_until = NULL, claimed_by = ''
)"""


def release(recipients: QuerySet[Recipient], *, by: str) -> int:
    """Send `recipients` on to the customer's server; `by` is the person's address. Returns how many are on their way.

    One transaction. Rows that are neither in quarantine nor refused by the server, or whose content is gone, stay.
    """
    statement = CHANGE.format(choose=CHOOSE, condition=WITH_CONTENT, more=QUEUE)
    return len(_change(recipients, statement, old=RELEASABLE, new=State.RELEASING, kind="releasing", by=by))


def delete(recipients: QuerySet[Recipient], *, by: str) -> int:
    """Delete `recipients`; `by` is the person's address. Returns how many were deleted.

    One transaction. The rows stay, to be found; content goes with the last recipient that needs it.
    """
    statement = CHANGE.format(choose=CHOOSE, condition="", more="")
    with transaction.atomic():
        messages = _change(recipients, statement, old=DELETABLE, new=State.DELETED, kind="deleted", by=by)
        drop_unneeded(messages)
    return len(messages)


def _change(
    recipients: QuerySet[Recipient], statement: str, *, old: tuple[str, ...], new: State, kind: str, by: str
) -> list[int]:
    """Change the state of those still in an `old` one; the message ids of the changed rows."""
    ids = list(recipients.values_list("pk", flat=True))
    values: dict[str, Any] = {"ids": ids, "from": list(old), "to": new.value, "kind": kind, "by": by[:320]}
    values |= {"schema": get_schema(), "lane": Lane.RELEASE.value}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)
        return [row[0] for row in cursor.fetchall()]
