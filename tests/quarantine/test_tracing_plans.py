"""A search goes by an index, and reads no large table through, whatever is searched and whoever searches."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import User
from quarantine import tracing
from quarantine.models import Message, Recipient
from quarantine.outcomes import Outcome
from quarantine.queries import visible_to
from quarantine.tracing import find_page, list_ways
from quarantine.wanted import Wanted, recognise

DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)
MANY = 50_000


@pytest.fixture
def many(acme):
    """50,000 messages of 5,000 senders from 250 networks to the domain's four mailboxes, over 35 days; one in a
    hundred was refused.
    """
    domain = MailDomain.objects.get(name="alpha.test")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO quarantine_message (trace_id, received_at, client_ip, helo, sender, message_id, header_from)"
            " SELECT 'T' || lpad(n::text, 19, '0'), %s::timestamptz - make_interval(mins => n),"
            " ('10.' || n %% 250 || '.' || n %% 7 || '.' || n %% 251)::inet, '', 's' || n %% 5000 || '@far.test',"
            " '<' || n || '@far.test>', 'S <s' || n %% 5000 || '@far.test>' FROM generate_series(1, %s) n",
            [DAY, MANY],
        )
        cursor.execute(
            "INSERT INTO quarantine_recipient (message_id, address, mailbox_id, domain_id, received_at, state, action,"
            " category, cause) SELECT m.id, replace(b.address, '@', '+' || m.id %% 300 || '@'), b.id, %s,"
            " m.received_at,"
            " CASE m.id %% 100 WHEN 0 THEN 'refused' ELSE 'delivered' END, 'deliver', 'clean',"
            " CASE m.id %% 100 WHEN 0 THEN 'reverse_dns' ELSE '' END"
            " FROM quarantine_message m JOIN (SELECT id, address, row_number() OVER (ORDER BY id) AS place"
            " FROM people_mailbox WHERE domain_id = %s) b ON b.place = 1 + m.id %% 3",
            [domain.pk, domain.pk],
        )
        cursor.execute(
            "INSERT INTO public.platform_unrouted (trace_id, at, client_ip, helo, sender, recipient, reply)"
            " SELECT trace_id, received_at, client_ip, helo, sender, 'x' || id % 900 || '@no.test', '550 5.7.1 no'"
            " FROM quarantine_message"
        )
        cursor.execute("ANALYZE quarantine_message, quarantine_recipient, public.platform_unrouted")


LARGE = ("quarantine_message", "quarantine_recipient", "platform_unrouted")
SEARCHES = {
    "trace id": (Wanted(trace_id="T0000000000000000777"), "message_trace_id"),
    "Message-ID": (Wanted(message_id="<777@far.test>"), "message_message_id_begins"),
    "sender": (Wanted(sender="s777@far.test"), "message_sender"),
    "recipient": (Wanted(recipient="bob+72@alpha.test"), "recipient_address"),
    "pair": (Wanted(pair=("s777@far.test", "bob+72@alpha.test")), ""),
    "client": (Wanted(client=ip_network("10.77.0.77")), "message_client"),
    "network": (Wanted(client=ip_network("10.77.3.0/24")), "message_client"),
    "hour": (Wanted(since=DAY - timedelta(hours=3), until=DAY - timedelta(hours=2)), "recipient_"),
    "anything": (Wanted(), "recipient_"),
}


def explain(statement: str, options: str = "COSTS") -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN ({options}) {statement}")
        return "\n".join(line for (line,) in cursor.fetchall())


def count_read(statement: str) -> float:
    """The rows that the step of the statement's plan with the most of them came to."""
    plan = explain(statement, "ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF")
    steps = re.findall(r"actual rows=([\d.]+) loops=(\d+)", plan)
    removed = re.findall(r"Rows Removed by [\w ]+: (\d+)", plan)
    return max(*(float(rows) * int(loops) for rows, loops in steps), *map(int, removed))


def explain_all(ways: list[tracing.Way]) -> list[str]:
    return [way.list_rows()[:51].explain() for way in ways]


def reads_whole(plan: str) -> list[str]:
    return [table for table in LARGE if f"Seq Scan on {table}" in plan]


WALKS = [
    Wanted(cause="reverse_dns"),
    Wanted(outcome=Outcome.REFUSED),
    Wanted(sender="@far.test"),
    Wanted(header_from="s7@"),
    Wanted(client=ip_network("10.0.0.0/8")),
    Wanted(client=ip_network("10.0.0.0/8"), cause="reverse_dns"),
    Wanted(client=ip_network("10.77.3.0/24"), cause="reverse_dns"),
    Wanted(client=ip_network("10.77.0.77"), outcome=Outcome.REFUSED),
    Wanted(sender="s777@far.test", cause="reverse_dns"),
    Wanted(recipient="bob+72@alpha.test", header_from="s7@"),
    Wanted(party="s777@far.test", outcome=Outcome.REFUSED),
]


def test_no_search_reads_a_large_table_through(many):
    domains = MailDomain.objects.all()
    for email in ("bob@alpha.test", "dora@alpha.test", "alice@acme.test"):
        rows = visible_to(User.objects.get(email=email))
        for name, (wanted, index) in SEARCHES.items():
            for plan in explain_all(list_ways(wanted, rows, domains)):
                assert not reads_whole(plan), (name, plan)
                # Who sees everything is led by the index of what is asked; others may be led by that of what they see.
                assert index in plan or (email != "alice@acme.test" and "recipient_" in plan), (name, plan)
        for plan in explain_all(list_ways(recognise("s777@far.test"), rows, domains)):
            assert not reads_whole(plan), plan


def test_a_message_id_that_thousands_of_messages_have_reads_only_its_page(many):
    first = 25_000
    Message.objects.filter(received_at__lte=DAY - timedelta(minutes=first)).update(message_id="<same@far.test>")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE quarantine_message")
    ways = list_ways(Wanted(message_id="<same@far.test>"), Recipient.objects.all(), MailDomain.objects.all())
    with CaptureQueriesContext(connection) as captured:
        found = find_page(ways)
    assert [row.received_at for row in found.items] == [DAY - timedelta(minutes=first + n) for n in range(50)]
    # A page, one to see if there is more, and a look ahead.
    assert count_read(captured.captured_queries[0]["sql"]) <= 52


def test_messages_without_a_message_id_leave_its_index_empty(many):
    """All in one place of it, they would slow down each that comes, as whatever is refused before its content does."""
    size = "SELECT pg_relation_size('message_message_id_begins')"
    with connection.cursor() as cursor:
        cursor.execute(size)
        before = cursor.fetchone()
        cursor.execute("UPDATE quarantine_message SET message_id = '', trace_id = 'X' || substr(trace_id, 2)")
        cursor.execute(size)
        assert cursor.fetchone() == before


def test_no_walk_reads_a_large_table_through(many, monkeypatch):
    monkeypatch.setattr(tracing, "WALK", 100)  # as 20,000 rows are to ten million
    for email in ("bob@alpha.test", "dora@alpha.test", "alice@acme.test"):
        for wanted in WALKS:
            ways = list_ways(wanted, visible_to(User.objects.get(email=email)), MailDomain.objects.all())
            with CaptureQueriesContext(connection) as captured:
                find_page(ways)
            assert len(ways) <= len(captured) <= 2 * len(ways)
            for query in captured.captured_queries:
                plan = explain(query["sql"])
                assert not reads_whole(plan), (email, wanted, plan)


def test_no_search_over_all_providers_reads_a_large_table_through(many):
    schemas = list(ServiceProvider.objects.exclude(schema_name="public").values_list("schema_name", flat=True))
    for name, (wanted, _) in SEARCHES.items():
        with CaptureQueriesContext(connection) as captured:
            tracing.find_everywhere(wanted, schemas, limit=51)
        assert len(captured) == (2 if name in {"network", "pair"} else 1)
        for query in captured.captured_queries:
            assert "sp_globex" in query["sql"]
            plan = explain(query["sql"])
            wide = [line for line in plan.splitlines() if "Seq Scan" in line and f"rows={MANY}" in line]
            assert not wide, (name, plan)
            assert "recipient_" in plan or "message_" in plan


def test_no_search_of_what_reached_nobody_reads_it_through(many):
    for name in ("trace id", "sender", "recipient", "pair", "client", "network", "anything"):
        for plan in explain_all(tracing.list_unrouted_ways(SEARCHES[name][0])):
            assert not reads_whole(plan), (name, plan)


def test_a_search_over_all_providers_looks_through_so_many_rows_of_each(many, monkeypatch):
    """Rare rows are found page after page; none reads a table through to fill one."""
    monkeypatch.setattr(tracing, "WALK", 100)
    schemas = list(ServiceProvider.objects.exclude(schema_name="public").values_list("schema_name", flat=True))
    for wanted in WALKS:
        with CaptureQueriesContext(connection) as captured:
            hits, reached = tracing.find_everywhere(wanted, schemas, limit=51)
        assert all(reached is None or at >= reached for at, _, _ in hits)
        for query in captured.captured_queries:
            assert count_read(query["sql"]) <= 101, wanted


@pytest.fixture
def busy(many):
    """One network of the fifty thousand messages, and one address, sent most of them."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE quarantine_message SET client_ip = '10.9.9.9' WHERE id % 3 = 1")
        cursor.execute("UPDATE quarantine_message SET client_ip = ('10.9.8.' || id % 256)::inet WHERE id % 3 = 2")
        cursor.execute("ANALYZE quarantine_message")


@pytest.mark.parametrize("network", ["10.9.9.9", "10.9.8.0/24", "10.9.0.0/16"])
def test_a_page_of_a_busy_network_sorts_no_more_than_can_be_looked_through(busy, monkeypatch, network):
    monkeypatch.setattr(tracing, "WALK", 1000)
    wanted, user = Wanted(client=ip_network(network)), User.objects.get(email="alice@acme.test")
    with CaptureQueriesContext(connection) as captured:
        page = find_page(list_ways(wanted, visible_to(user), MailDomain.objects.all()))
    assert len(page.items) == 50
    assert all(ip_address(row.message.client_ip) in wanted.client for row in page.items)
    for query in captured.captured_queries:
        assert count_read(query["sql"]) <= 1001
