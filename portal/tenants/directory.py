"""Recipient -> provider, mailbox, rules: in memory, refreshed by NOTIFY. What the gateway asks at every RCPT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from psycopg import AsyncConnection, Error, sql

from portal.tenants.database import Pool, end_all, finish_within, get_conninfo, is_outage
from portal.tenants.newcomers import CONNECTION_SECONDS, make_mailboxes

log = logging.getLogger(__name__)

CHANNEL = "lazaret_directory"
PUBLIC = "public"
RECONNECT_SECONDS = 1.0
QUERY_SECONDS = 10.0
PAUSE_SECONDS = 1.0  # after PostgreSQL was out of reach, the next are told so at once instead of made to wait
MAX_KNOWN = 50_000  # addresses of mailboxes kept in memory, by process
MAX_UNKNOWN = 10_000  # addresses known to be nobody's

SenderRuleRow = tuple[str, str, str]  # scope (mailbox, domain, provider), action (allow, block), pattern
PtrExceptionRow = tuple[str, datetime]  # network, until


class DirectoryUnavailable(Exception):
    """PostgreSQL cannot answer and the answer is not in memory: the client must try again later."""


@dataclass(frozen=True, slots=True)
class ServedDomain:
    """A mail domain of ours, and what its admins chose."""

    id: int
    name: str
    schema: str
    provider: str  # the provider's slug
    spam_action: str
    sure_spam_action: str
    ptr_action: str
    recipient_policy: str
    server_host: str  # where its mail goes
    server_port: int
    hostname: str  # of the provider's portal; empty where there is none


@dataclass(frozen=True, slots=True)
class Addressee:
    """Whom an address means. `mailbox_id` is None for a postmaster without a mailbox, and until its first mail for an
    address that is taken without one.
    """

    address: str  # lower case
    domain: ServedDomain
    mailbox_id: int | None
    rules: tuple[SenderRuleRow, ...] = ()
    ptr_exceptions: tuple[PtrExceptionRow, ...] = ()  # of the domain and of the provider; see `until` at every use

    @property
    def is_postmaster(self) -> bool:
        return self.address.startswith("postmaster@")

    @property
    def is_new(self) -> bool:
        """Whether a mailbox is to be made when a message for it is taken."""
        return self.mailbox_id is None and not strip_tag(self.address).startswith("postmaster@")


@dataclass(frozen=True, slots=True)
class UnknownMailbox:
    """The domain is ours, the mailbox is not there."""

    newcomer: Addressee  # whom the address would mean where it is taken all the same
    reason: str = "There is no such mailbox."

    @property
    def address(self) -> str:
        return self.newcomer.address

    @property
    def domain(self) -> ServedDomain:
        return self.newcomer.domain


DOMAINS = """
SELECT d.id, d.name, p.schema_name, p.slug, d.spam_action, d.sure_spam_action, d.ptr_action, d.recipient_policy,
    d.server_host, d.server_port, coalesce(h.domain, '')
FROM public.tenants_maildomain d JOIN public.tenants_serviceprovider p ON p.id = d.provider_id
LEFT JOIN LATERAL (
    SELECT domain FROM public.tenants_hostname WHERE tenant_id = p.id ORDER BY is_primary DESC, id LIMIT 1
) h ON true
ORDER BY d.id
"""

# By the unique indexes of the two address columns; rules by those of mailbox_id and of domain_id without a mailbox;
# exceptions by that of until.
MAILBOX = sql.SQL("""
WITH found AS (
    SELECT * FROM (
        SELECT id, 1 AS rank FROM {schema}.people_mailbox WHERE address = %(exact)s
        UNION ALL SELECT mailbox_id, 2 FROM {schema}.people_mailboxalias WHERE address = %(exact)s
        UNION ALL SELECT id, 3 FROM {schema}.people_mailbox WHERE address = %(base)s
        UNION ALL SELECT mailbox_id, 4 FROM {schema}.people_mailboxalias WHERE address = %(base)s
    ) AS ranked ORDER BY rank LIMIT 1
)
SELECT (SELECT id FROM found), ARRAY(
    SELECT ARRAY['mailbox', action, pattern] FROM {schema}.people_senderrule
    WHERE mailbox_id = (SELECT id FROM found)
    UNION ALL
    SELECT ARRAY['domain', action, pattern] FROM {schema}.people_senderrule
    WHERE mailbox_id IS NULL AND domain_id = %(domain)s
    UNION ALL
    SELECT ARRAY['provider', action, pattern] FROM {schema}.people_senderrule
    WHERE mailbox_id IS NULL AND domain_id IS NULL
), ARRAY(
    SELECT ARRAY[network, extract(epoch FROM until)::text] FROM {schema}.people_ptrexception
    WHERE until > now() AND ended_at IS NULL AND (domain_id IS NULL OR domain_id = %(domain)s)
)
""")

T = TypeVar("T")
Answer = Addressee | UnknownMailbox
Rows = list[tuple[Any, ...]]
Change = tuple[int, int]  # how often the public schema, and the provider's, had changed


def strip_tag(address: str) -> str:
    """`user+tag@domain` -> `user@domain`; anything else is returned as it is."""
    local, _, domain = address.rpartition("@")
    base = local.partition("+")[0]
    return f"{base}@{domain}" if base and not local.startswith('"') else address


class Directory:
    """Finds recipients. One for a process; `start` listens for changes, `find` answers.

    What is in memory is answered from there even while PostgreSQL is away. After a lost connection everything is
    dropped, because a change may have been missed.
    """

    def __init__(self, pool: Pool, *, hostname: str = "") -> None:
        self._pool = pool
        self._hostname = hostname.lower()
        self._domains: dict[str, ServedDomain] = {}
        self._domains_change = -1  # how often the public schema had changed when they were asked for
        # An answer holds as long as nothing has changed since its look-up began: to drop all costs nothing.
        self._known: OrderedDict[str, tuple[Change, Answer]] = OrderedDict()
        self._unknown: OrderedDict[str, tuple[Change, Answer]] = OrderedDict()
        self._changes: defaultdict[str, int] = defaultdict(int)  # by schema
        self._rules: dict[tuple[SenderRuleRow, ...], tuple[SenderRuleRow, ...]] = {}  # equal rules are kept once
        self._exceptions: dict[tuple[PtrExceptionRow, ...], tuple[PtrExceptionRow, ...]] = {}  # likewise
        self._watchers: list[Callable[[], None]] = []
        self._listener: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self._paused_until = 0.0
        self.listening = asyncio.Event()

    async def start(self) -> None:
        """Begin to listen and return; `listening` is set while changes are heard."""
        self._listener = asyncio.create_task(self._listen_for_ever())

    async def close(self) -> None:
        if self._listener:
            await end_all([self._listener])

    def on_public_change(self, callback: Callable[[], None]) -> None:
        """Call back when a public table that concerns mail has changed (or may have)."""
        self._watchers.append(callback)

    async def find(self, address: str) -> Answer | None:
        """Whom the address means; None where the domain is not ours (relaying is denied).

        `postmaster@` any served domain is always somebody (RFC 5321 4.5.1). A bare `postmaster` is the one of the
        served domain that the gateway's own hostname is in, or else of the oldest. Raises DirectoryUnavailable.
        """
        address = address.lower()
        change, domains = await self._get_domains()
        if "@" not in address:
            home = self._find_home(domains) if address == "postmaster" else None
            address = f"postmaster@{home}" if home else address
        domain = domains.get(address.rpartition("@")[2])
        if domain is None:
            return None
        return self._recall(address, domain) or await self._look_up(address, domain, change)

    def recall_domain(self, address: str) -> ServedDomain | None:
        """The served domain of an address as it was last known, for the record; nothing is asked."""
        return self._domains.get(address.lower().rpartition("@")[2])

    def _find_home(self, domains: dict[str, ServedDomain]) -> str:
        for name in domains:
            if self._hostname == name or self._hostname.endswith(f".{name}"):
                return name
        return next(iter(domains), "")

    def _recall(self, address: str, domain: ServedDomain) -> Answer | None:
        for cache in (self._known, self._unknown):
            found = cache.get(address)
            if found and found[0] == self._get_change(domain):
                cache.move_to_end(address)
                return found[1]
        return None

    def _get_change(self, domain: ServedDomain) -> Change:
        return self._changes[PUBLIC], self._changes[domain.schema]

    async def _get_domains(self) -> tuple[int, dict[str, ServedDomain]]:
        """The served domains, not older than this call, and as of which change of the public schema they are."""
        now = self._changes[PUBLIC]
        if self._domains_change < now:
            async with self._loading:
                if self._domains_change < now:  # else somebody has asked since
                    change = self._changes[PUBLIC]
                    rows = await self._fetch(DOMAINS)
                    self._domains = {row[1]: ServedDomain(*row) for row in rows}
                    self._domains_change = change
        return self._domains_change, self._domains

    async def _look_up(self, address: str, domain: ServedDomain, public_change: int) -> Answer:
        change = public_change, self._changes[domain.schema]
        query = MAILBOX.format(schema=sql.Identifier(domain.schema))
        values = {"exact": address, "base": strip_tag(address), "domain": domain.id}
        [(mailbox_id, rows, excepted)] = await self._fetch(query, values)
        rules = tuple((scope, action, pattern) for scope, action, pattern in rows)
        exceptions = tuple((network, datetime.fromtimestamp(float(until), UTC)) for network, until in excepted)
        choices = self._rules.setdefault(rules, rules), self._exceptions.setdefault(exceptions, exceptions)
        found = Addressee(address, domain, mailbox_id, *choices)
        is_unknown = mailbox_id is None and not found.is_postmaster
        return self._keep(UnknownMailbox(found) if is_unknown else found, change)

    async def ensure_mailboxes(self, addressees: Iterable[Addressee]) -> dict[str, int]:
        """The mailboxes of those who are new, by address, made where nobody has made them yet. Every gateway hears of
        them by NOTIFY. Raises DirectoryUnavailable.
        """
        new = [addressee for addressee in addressees if addressee.is_new]
        made: dict[str, int] = {}
        for schema in {addressee.domain.schema for addressee in new}:
            wanted = {
                one.address: (strip_tag(one.address), one.domain.id) for one in new if one.domain.schema == schema
            }
            made |= await self._try(make_mailboxes(self._pool, schema, wanted))
        return made

    def _keep(self, answer: Answer, change: Change) -> Answer:
        """Remember the answer, as of the change before its look-up began."""
        known = isinstance(answer, Addressee)
        cache, limit = (self._known, MAX_KNOWN) if known else (self._unknown, MAX_UNKNOWN)
        cache[answer.address] = (change, answer)
        if len(cache) > limit:
            cache.popitem(last=False)
        return answer

    async def _fetch(self, query: str | sql.Composed, values: dict[str, object] | None = None) -> Rows:
        return await self._try(self._ask(query, values))

    async def _try(self, work: Coroutine[Any, Any, T]) -> T:
        if time.monotonic() < self._paused_until:
            work.close()
            raise DirectoryUnavailable
        try:
            return await finish_within(QUERY_SECONDS, work)
        except (Error, OSError) as error:
            if is_outage(error):  # and not one provider's schema alone
                self._paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("directory_unavailable error=%s", type(error).__name__)
            raise DirectoryUnavailable from error

    async def _ask(self, query: str | sql.Composed, values: dict[str, object] | None) -> Rows:
        async with self._pool.connection(CONNECTION_SECONDS) as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall()

    def _drop(self, schema: str) -> None:
        """Forget what a change in this schema may have made wrong; of `public`, everything."""
        self._changes[schema] += 1
        self._rules.clear()
        self._exceptions.clear()
        if schema == PUBLIC:
            for callback in self._watchers:
                callback()

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it is, changes must be heard again
                log.warning("directory_listener_lost error=%s", type(error).__name__)
            self.listening.clear()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        connection = await AsyncConnection.connect(
            get_conninfo(application_name="lazaret-directory", keepalives_idle=5, keepalives_interval=2),
            autocommit=True,
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self._drop(PUBLIC)
            with contextlib.suppress(DirectoryUnavailable):
                await self._get_domains()  # for `recall_domain`: while mail is put off, nobody asks
            self.listening.set()
            async for notice in connection.notifies():
                self._drop(notice.payload)
