"""Finding what happened, from whatever somebody knows of a mail. Each way names the index it reads.

Most ways are exact: an index finds their rows in the order in which they are shown. Where there is no index for what
is asked (a line From, the domain of a sender, an outcome, a wide network), the newest rows that the rest leads to are
looked through, so many a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.db.models.functions import Left, Lower
from django.db.models.lookups import Exact
from psycopg import sql

from portal.tenants.models import MailDomain
from quarantine.look_ups import of_message, of_unrouted
from quarantine.models import INDEXED_LENGTH, Message, Recipient
from quarantine.outcomes import CONDITIONS, WAS_READ
from quarantine.platform.models import Unrouted
from quarantine.queries import SCHEMAS_A_QUERY, read_place, write_place
from quarantine.wanted import Network, Wanted

WALK = 20_000  # rows that one page looks through where no index answers
LONGEST = timedelta(hours=1)  # that a transaction is reckoned to take
WIDEST = {4: 16, 6: 32}  # the shortest prefix whose rows may be few enough to be sorted: they are counted first
TABLE = re.compile(r'"(quarantine_\w+)"')
Key = tuple[datetime, int]  # of a row in a way: when, and its id


@dataclass(frozen=True, slots=True)
class Way:
    """Rows in the order in which an index has them: newest first by `clock`, then by id.

    `narrow` is what that index does not answer: for it, rows are looked through, WALK of them a page.
    """

    rows: QuerySet[Any]
    clock: str = "received_at"
    narrow: Q = field(default_factory=Q)

    def within(self, wanted: Wanted) -> Way:
        """Rows of that time. A message's own time is the end of its transaction; its recipients may be older."""
        since, until = wanted.since, wanted.until
        limits = {f"{self.clock}__gte": since, f"{self.clock}__lt": until}
        if self.clock == SENT_AT:
            limits |= {f"{SENT_AT}__lt": until and until + LONGEST, "received_at__gte": since, "received_at__lt": until}
        return replace(self, rows=self.rows.filter(**{name: at for name, at in limits.items() if at}))

    def list_rows(self) -> QuerySet[Any]:
        return self.rows.filter(self.narrow).order_by(f"-{self.clock}", "-pk")

    def get_key(self, row: Any) -> Key:
        at = row
        for name in self.clock.split("__"):
            at = getattr(at, name)
        return at, row.pk


SENT_AT = "message__received_at"


def list_ways(
    wanted: Wanted, rows: QuerySet[Recipient], domains: QuerySet[MailDomain], *, is_wide: bool | None = None
) -> list[Way]:
    """How to find what is wanted among the recipient rows `rows`; `domains` are those that they may be of.

    The rows of each are in an index's order; what is left to be told of them is its `narrow`. `is_wide`: whether the
    network that is wanted has too many rows to be sorted (None: they are counted, in the schema we are in).
    """
    is_wide = has_many(wanted.client, Message.objects.all()) if is_wide is None else is_wide
    narrow = _make_narrow(wanted, is_wide=is_wide)
    if wanted.party.startswith("@"):
        if ids := _list_ids(wanted.party, domains):
            rows = rows.filter(domain_id__in=ids)  # index recipient_domain
        else:
            narrow &= Q(message__sender__iendswith=wanted.party)
    if wanted.recipient.startswith("@"):
        rows = rows.filter(domain_id__in=_list_ids(wanted.recipient, domains))
    rows = rows.filter(*_list_conditions(wanted, is_wide=is_wide))
    ways = _list_exact(wanted, rows, is_wide=is_wide) or [Way(rows)]
    return [replace(way, narrow=narrow).within(wanted) for way in ways]


def _make_narrow(wanted: Wanted, *, is_wide: bool) -> Q:
    narrow = CONDITIONS[wanted.outcome] if wanted.outcome else Q()
    if wanted.cause:
        narrow &= Q(cause=wanted.cause)
    if wanted.reverse_dns:
        narrow &= of_message(wanted.reverse_dns)
    if wanted.header_from:
        narrow &= WAS_READ & Q(message__header_from__icontains=wanted.header_from)
    if wanted.sender.startswith("@"):
        narrow &= Q(message__sender__iendswith=wanted.sender)
    if wanted.client and is_wide:
        narrow &= _is_within(wanted.client, "message__client_ip")
    return narrow


def _list_conditions(wanted: Wanted, *, is_wide: bool) -> list[Any]:
    conditions: list[Any] = []
    if _is_address(wanted.recipient):
        conditions.append(_is_for(wanted.recipient))
    if _is_address(wanted.sender):
        conditions.append(_is_from(wanted.sender))
    if wanted.client and not is_wide:
        conditions.append(_is_within(wanted.client, "message__client_ip"))
    return conditions


def _list_exact(wanted: Wanted, rows: QuerySet[Recipient], *, is_wide: bool) -> list[Way]:
    if wanted.trace_id:
        return [Way(rows.filter(message__trace_id=wanted.trace_id))]  # the unique index of trace_id
    if wanted.pair:
        return _list_both_ways(wanted, rows)
    ways = [Way(rows.filter(*_has_message_id(wanted.message_id)), SENT_AT)] if wanted.message_id else []
    if _is_address(wanted.party):
        others = rows.exclude(message__message_id=wanted.message_id) if wanted.message_id else rows
        ways.append(Way(others.filter(_is_for(wanted.party))))
        ways.append(Way(others.filter(_is_from(wanted.party)).exclude(_is_for(wanted.party)), SENT_AT))
    if ways:
        return ways
    if _is_address(wanted.recipient):
        return [Way(rows)]
    is_near = wanted.client and not is_wide
    return [Way(rows, SENT_AT)] if _is_address(wanted.sender) or is_near else []


def _list_both_ways(wanted: Wanted, rows: QuerySet[Recipient]) -> list[Way]:
    """The pair are two: no row is found both ways."""
    if wanted.message_id:
        rows = rows.filter(message__message_id=wanted.message_id)
    one, other = wanted.pair
    return [Way(rows.filter(_is_for(to), _is_from(by))) for by, to in ((one, other), (other, one))]


def _is_address(text: str) -> bool:
    return bool(text) and not text.startswith("@")


def _is_for(address: str) -> Exact:
    return Exact(Lower("address"), address)  # index recipient_address


def _is_from(address: str) -> Exact:
    return Exact(Lower("message__sender"), address)  # index message_sender


def _has_message_id(message_id: str) -> tuple[Exact, Q]:
    """Index message_message_id_begins: it has what a Message-ID begins with, and none that is empty."""
    begins = Exact(Left("message__message_id", INDEXED_LENGTH), message_id[:INDEXED_LENGTH])
    return begins, Q(message__message_id=message_id)


def has_many(network: Network | None, rows: QuerySet[Any]) -> bool:
    """Whether the rows of the network are too many to be sorted for a page. An address has its rows in order."""
    if network is None or network.num_addresses == 1:
        return False
    return network.prefixlen < WIDEST[network.version] or _list_some(network, rows).count() > WALK


def has_many_anywhere(network: Network | None, schemas: Sequence[str]) -> bool:
    """The same of the messages of any of those schemas: a query for 200 of them."""
    if network is None or network.num_addresses == 1 or network.prefixlen < WIDEST[network.version]:
        return has_many(network, Message.objects.none())
    some = _list_some(network, Message.objects.all()).values_list("pk")
    statement, values = some.query.sql_with_params()
    counts = sql.SQL("SELECT max(n) FROM (SELECT count(*) n FROM ({rows}) found GROUP BY schema) counts")
    return any(
        found[0] > WALK
        for part in _in_parts(schemas)
        for found in _ask(counts.format(rows=_unite(statement, part, sql.SQL(QUALIFIED))), [*values] * len(part))
        if found[0] is not None
    )


def _list_some(network: Network, rows: QuerySet[Any]) -> QuerySet[Any]:
    """One more than can be sorted: that many, or more."""
    return rows.filter(_is_within(network, "client_ip"))[: WALK + 1]


def _is_within(network: Network, column: str) -> Q:
    """Indexes message_client, unrouted_client: addresses of a network are neighbours, one has its rows by time."""
    if network.num_addresses == 1:
        return Q(**{column: str(network[0])})
    return Q(**{f"{column}__gte": str(network[0]), f"{column}__lte": str(network[-1])})


def _list_ids(name: str, domains: QuerySet[MailDomain]) -> list[int]:
    return list(domains.filter(name=name.removeprefix("@")).values_list("pk", flat=True))


@dataclass(frozen=True, slots=True)
class Found:
    """Rows, newest first. `next` is the place after them (None: there are no more); `reached` is how far back was
    looked, where a walk ended before everything was seen.
    """

    items: list[Any]
    next: str | None = None
    reached: datetime | None = None


def find_page(ways: Sequence[Way], *, after: str | None = None, size: int = 50) -> Found:
    """The next `size` rows of all ways together after the place `after`: a query a way, and one more for a walk."""
    places = (after or "").split("_")[: len(ways)]
    places += [""] * (len(ways) - len(places))
    read: list[tuple[Key, int, Any]] = []
    edges: list[Key] = []
    for number, way in enumerate(ways):
        rows, edge = _read(_start(way, places[number]), size + 1)
        read += [(way.get_key(row), number, row) for row in rows]
        edges += [edge] if edge else []
    edge = max(edges, default=None)  # what is before it, another way may not have come to yet
    read = sorted((entry for entry in read if edge is None or entry[0] >= edge), key=lambda entry: entry[:2])[::-1]
    items = [row for _, _, row in read[:size]]
    if len(read) > size:
        for key, number, _ in read[:size]:
            places[number] = write_place(*key)
        return Found(items, "_".join(places))
    return Found(items, "_".join([write_place(*edge)] * len(ways)), edge[0]) if edge else Found(items)


def _read(way: Way, limit: int) -> tuple[list[Any], Key | None]:
    """The way's first rows, and the key of the last row that was looked through where there may be more behind it."""
    return _walk(way, limit) if way.narrow else (list(way.list_rows()[:limit]), None)


def _start(way: Way, place: str) -> Way:
    """The way from that place on; from the newest row where it is none."""
    if not (key := read_place(place)):
        return way
    at, pk = key
    before = Q(**{f"{way.clock}__lt": at}) | Q(pk__lt=pk)
    return replace(way, rows=way.rows.filter(before, **{f"{way.clock}__lte": at}))


def _walk(way: Way, limit: int) -> tuple[list[Any], Key | None]:
    """Look through WALK rows, whatever is found: a page costs the same with ten million rows.

    What narrows is a column here, not a condition: no plan can go through the whole table for rows that meet it.
    """
    is_wanted = ExpressionWrapper(way.narrow, output_field=BooleanField())
    seen = replace(way, narrow=Q()).list_rows().annotate(is_wanted=is_wanted)
    keys = list(seen.values_list(way.clock, "pk", "is_wanted")[:WALK])
    wanted = [pk for _, pk, is_wanted in keys if is_wanted][:limit]
    edge = (keys[-1][0], keys[-1][1]) if len(keys) == WALK else None
    return list(replace(way, narrow=Q(pk__in=wanted)).list_rows()), edge


Hit = tuple[datetime, str, int]  # when, schema, the recipient row's id
QUALIFIED = "SELECT {schema}::text AS schema, found.* FROM ({rows}) found"
# The rows that are wanted of those that were looked through; and, without an id, how far that came where it ended.
WALKED = """(
WITH seen (at, pk, is_wanted) AS MATERIALIZED ({rows})
(SELECT {schema}::text, at, pk FROM seen WHERE is_wanted ORDER BY at DESC, pk DESC LIMIT {limit})
UNION ALL SELECT {schema}::text, min(at), NULL FROM seen HAVING count(*) = {walk}
)"""


def find_everywhere(
    wanted: Wanted, schemas: Sequence[str], *, limit: int, is_wide: bool | None = None
) -> tuple[list[Hit], datetime | None]:
    """The newest `limit` recipient rows of those schemas, and how far back was looked where rows were looked through
    and that ended before everything was seen: a query for 200 schemas, for each way. `is_wide` as in `list_ways`.
    """
    is_wide = has_many_anywhere(wanted.client, schemas) if is_wide is None else is_wide
    hits: set[Hit] = set()
    edges: list[datetime] = []
    for way in list_ways(wanted, Recipient.objects.all(), MailDomain.objects.all(), is_wide=is_wide):
        for part in _in_parts(schemas):
            for schema, at, pk in _find_in_schemas(way, part, limit):
                if pk is None:
                    edges.append(at)
                else:
                    hits.add((at, schema, pk))
    edge = max(edges, default=None)  # what is before it, elsewhere may not have been looked at yet
    return sorted((hit for hit in hits if edge is None or hit[0] >= edge), reverse=True)[:limit], edge


def _find_in_schemas(way: Way, schemas: Sequence[str], limit: int) -> list[tuple[str, datetime, int | None]]:
    rows = replace(way, narrow=Q()).list_rows().select_related(None)
    pattern = sql.SQL(QUALIFIED)
    if way.narrow:
        is_wanted = ExpressionWrapper(way.narrow, output_field=BooleanField())
        found = rows.annotate(is_wanted=is_wanted).values_list(way.clock, "pk", "is_wanted")[:WALK]
        pattern = sql.SQL(WALKED)
    else:
        found = rows.values_list(way.clock, "pk")[:limit]
    try:
        statement, values = found.query.sql_with_params()
    except EmptyResultSet:
        return []
    return _ask(_unite(statement, schemas, pattern, limit=limit), [*values] * len(schemas))


def _in_parts(schemas: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(schemas), SCHEMAS_A_QUERY):
        yield schemas[start : start + SCHEMAS_A_QUERY]


def _unite(statement: str, schemas: Sequence[str], pattern: sql.SQL, *, limit: int = 0) -> sql.Composed:
    """Django's statement for each schema, with the schema before each table and beside each row. Names are our own."""
    bounds = {"limit": sql.Literal(limit), "walk": sql.Literal(WALK)}
    parts = [
        pattern.format(schema=sql.Literal(schema), rows=sql.SQL(TABLE.sub(rf'"{schema}"."\1"', statement)), **bounds)
        for schema in schemas
    ]
    return sql.SQL(" UNION ALL ").join(parts)


def _ask(query: sql.Composed, values: Sequence[Any]) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        rows: list[Any] = cursor.fetchall()
        return rows


def list_unrouted_ways(wanted: Wanted) -> list[Way]:
    """How to find what is wanted among what reached no provider."""
    rows, narrow = _list_unrouted_rows(wanted)
    if wanted.message_id and not wanted.party or wanted.header_from:
        rows = rows.none()  # what reached nobody was not read
    if _is_address(wanted.party):
        to_them, from_them = (Exact(Lower(column), wanted.party) for column in ("recipient", "sender"))
        both = (rows.filter(to_them), rows.filter(from_them).exclude(to_them))
        ways = [Way(found, "at", narrow) for found in both]
    elif wanted.pair:
        one, other = wanted.pair
        ways = [
            Way(rows.filter(Exact(Lower("sender"), by), Exact(Lower("recipient"), to)), "at", narrow)
            for by, to in ((one, other), (other, one))
        ]
    else:
        if wanted.party:
            narrow &= Q(sender__iendswith=wanted.party) | Q(recipient__iendswith=wanted.party)
        ways = [Way(rows, "at", narrow)]
    return [way.within(wanted) for way in ways]


def _list_unrouted_rows(wanted: Wanted) -> tuple[QuerySet[Unrouted], Q]:
    """What an index leads to, and what it does not answer."""
    rows, narrow = Unrouted.objects.all(), Q()
    if wanted.client:
        is_wide, within = has_many(wanted.client, rows), _is_within(wanted.client, "client_ip")
        rows, narrow = (rows, within) if is_wide else (rows.filter(within), narrow)
    if wanted.trace_id:
        rows = rows.filter(trace_id=wanted.trace_id)
    for column in ("sender", "recipient"):
        value = getattr(wanted, column)
        if _is_address(value):
            rows = rows.filter(Exact(Lower(column), value))  # indexes unrouted_sender, unrouted_recipient
        elif value:
            narrow &= Q(**{f"{column}__iendswith": value})
    for column in ("outcome", "cause"):
        narrow &= Q(**{column: value}) if (value := getattr(wanted, column)) else Q()
    if wanted.reverse_dns:
        narrow &= of_unrouted(wanted.reverse_dns)
    return rows, narrow
