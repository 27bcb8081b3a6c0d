"""What somebody knows of a mail leads to its trace: whatever was typed, by an index, newest first."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_tenants.utils import schema_context

from portal.settings.environment import PROJECT
from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import User
from quarantine import tracing
from quarantine.models import Message, Recipient, State
from quarantine.outcomes import BY_STATE, FINER, Outcome, get_outcome
from quarantine.queries import visible_to
from quarantine.tracing import find_page, list_ways
from quarantine.wanted import NotUnderstoodError, Wanted, recognise
from tests.kept_mail import keep

DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)
TRACE = "01JABCDEFGH1K0MNPQRS"
MANY = 50_000


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        (TRACE, Wanted(trace_id=TRACE)),
        (f"  {TRACE.lower().replace('1', 'l', 1)[:9]} {TRACE[9:].replace('0', 'o')} ", Wanted(trace_id=TRACE)),
        (f"554 5.7.1 Message refused by policy (trace {TRACE})", Wanted(trace_id=TRACE)),
        (f"<bob@alpha.test>: host mx said: 550 5.1.1 No such mailbox here (trace {TRACE})", Wanted(trace_id=TRACE)),
        ("<4711.abc>", Wanted(message_id="<4711.abc>")),
        ("<4711@Far.test>", Wanted(message_id="<4711@Far.test>")),
        ("Message-ID: <4711@far.test>", Wanted(message_id="<4711@far.test>")),
        ("Message-ID: 4711@far.test", Wanted(message_id="<4711@far.test>")),
        ("Ann@Far.test", Wanted(message_id="<Ann@Far.test>", party="ann@far.test")),
        ("Ann Smith <Ann@far.test>", Wanted(party="ann@far.test")),
        ("From: Ann <ann@far.test>", Wanted(party="ann@far.test")),
        ("Return-Path: <Ann@far.test>", Wanted(party="ann@far.test")),
        ("To: theo@alpha.test", Wanted(party="theo@alpha.test")),
        ("Ann@Far.test theo@alpha.test", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("ann@far.test, theo@alpha.test", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("From: ann@far.test To: theo@alpha.test.", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("<ann@far.test> to <theo@alpha.test>", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("<ann@far.test><theo@alpha.test>", Wanted(pair=("ann@far.test", "theo@alpha.test"))),
        ("@Far.Test.", Wanted(party="@far.test")),
        ("192.0.2.25", Wanted(client=ip_network("192.0.2.25"))),
        ("[192.0.2.25]", Wanted(client=ip_network("192.0.2.25"))),
        ("192.0.2.25/24", Wanted(client=ip_network("192.0.2.0/24"))),
        ("2001:DB8::1", Wanted(client=ip_network("2001:db8::1"))),
        ("[IPv6:2001:db8::1]", Wanted(client=ip_network("2001:db8::1"))),
        ("::ffff:192.0.2.25", Wanted(client=ip_network("192.0.2.25"))),
        ("2001:db8::/32", Wanted(client=ip_network("2001:db8::/32"))),
    ],
)
def test_what_was_typed_is_recognised(typed, wanted):
    assert recognise(typed) == wanted


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "invoice",
        "internationalization of mail",
        "@",
        "ann@",
        "300.1.1.1",
        "\0",
        "a@x.test b@y.test c@z.test",
        "a@x.test @y.test",
    ],
)
def test_what_is_nothing_of_that_is_said_to_be_nothing(typed):
    with pytest.raises(NotUnderstoodError, match=r"no (trace id|address)"):
        recognise(typed)


def find(wanted: Wanted, rows=None) -> set[str]:
    """The addresses for which something was found."""
    rows = Recipient.objects.select_related("message") if rows is None else rows
    domains = MailDomain.objects.filter(provider__schema_name=get_schema())
    return {row.address for row in find_page(list_ways(wanted, rows, domains)).items}


def make_some() -> Message:
    """A mail of each kind: by whom, for whom, when, with what outcome."""
    first = keep("bob@alpha.test", sender="Ann@far.test", received_at=DAY)
    Message.objects.filter(pk=first.pk).update(message_id="<4711@far.test>", client_ip="192.0.2.25")
    other = keep(
        "carol@alpha.test", sender="ben@else.test", received_at=DAY + timedelta(hours=1), state=State.DELIVERED,
        action="deliver",
    )  # fmt: skip
    Message.objects.filter(pk=other.pk).update(client_ip="2001:db8::7", header_from="Ann <ann@far.test>")
    late = DAY + timedelta(hours=2)
    keep("bea@beta.test", sender="", received_at=late, state=State.REFUSED, cause="reverse_dns", reply="553 5.3.0 no")
    keep("dora@alpha.test", received_at=late, state=State.UNFINISHED, cause="overload", reply="451 4.3.0 later")
    keep("Eve@alpha.test", received_at=late, state=State.UNFINISHED, cause="timeout", reply="250 2.1.5 ok")
    return first


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (recognise("4711@far.test"), {"bob@alpha.test"}),
        (recognise("<4711@far.test>"), {"bob@alpha.test"}),
        (recognise("ANN@far.test"), {"bob@alpha.test"}),
        (recognise("CAROL@alpha.test"), {"carol@alpha.test"}),
        (recognise("eve@alpha.test"), {"Eve@alpha.test"}),
        (recognise("@beta.test"), {"bea@beta.test"}),
        (recognise("@else.test"), {"carol@alpha.test"}),
        (recognise("192.0.2.25"), {"bob@alpha.test"} | {"bea@beta.test", "dora@alpha.test", "Eve@alpha.test"}),
        (recognise("2001:db8::/32"), {"carol@alpha.test"}),
        (recognise("2001:d00::/24"), {"carol@alpha.test"}),
        (recognise("192.0.0.0/8").also(cause="overload"), {"dora@alpha.test"}),
        (recognise("198.51.100.0/24"), set()),
        (recognise("ann@far.test").in_header(), {"bob@alpha.test", "carol@alpha.test"}),
        (Wanted(sender="ann@far.test", recipient="bob@alpha.test"), {"bob@alpha.test"}),
        (Wanted(sender="ann@far.test", recipient="carol@alpha.test"), set()),
        (recognise("ann@far.test bob@alpha.test"), {"bob@alpha.test"}),
        (recognise("bob@alpha.test ann@far.test"), {"bob@alpha.test"}),
        (recognise("carol@alpha.test bob@alpha.test"), set()),
        (recognise("bob@alpha.test ann@far.test").also(message_id="<4711@far.test>"), {"bob@alpha.test"}),
        (recognise("bob@alpha.test ann@far.test").also(message_id="<4712@far.test>"), set()),
        (recognise("bob@alpha.test ann@far.test").also(sender="bob@alpha.test"), set()),
        (recognise("bob@alpha.test ann@far.test").also(outcome=Outcome.REFUSED), set()),
        (Wanted(sender="ann@far.test", recipient="@alpha.test"), {"bob@alpha.test"}),
        (Wanted(sender="@else.test", recipient="@alpha.test"), {"carol@alpha.test"}),
        (Wanted(recipient="@gamma.test"), set()),
        (Wanted(party="bob@alpha.test", outcome=Outcome.HELD), {"bob@alpha.test"}),
        (Wanted(party="bob@alpha.test", outcome=Outcome.REFUSED), set()),
        (Wanted(outcome=Outcome.HELD), {"bob@alpha.test"}),
        (Wanted(outcome=Outcome.ACCEPTED), {"carol@alpha.test"}),
        (Wanted(outcome=Outcome.DELIVERED), {"carol@alpha.test"}),
        (Wanted(outcome=Outcome.REFUSED), {"bea@beta.test"}),
        (Wanted(outcome=Outcome.DEFERRED), {"dora@alpha.test"}),
        (Wanted(outcome=Outcome.UNFINISHED), {"Eve@alpha.test"}),
        (Wanted(cause="reverse_dns"), {"bea@beta.test"}),
        (Wanted(since=DAY + timedelta(minutes=1), until=DAY + timedelta(hours=2)), {"carol@alpha.test"}),
        (Wanted(since=DAY, until=DAY + timedelta(seconds=1)), {"bob@alpha.test"}),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, Wanted) else "",
)
def test_each_thing_that_is_known_finds_its_mail(acme, wanted, found):
    make_some()
    assert find(wanted) == found


@pytest.mark.parametrize(
    "more",
    [{}, {"sender": "ann@far.test"}, {"client": ip_network("192.0.2.25")}, {"party": "ann@far.test"}, {"cause": "x"}],
)
def test_a_recipient_that_was_refused_at_once_is_found_at_that_time_whenever_the_rest_ended(acme, more):
    message = keep("bob@alpha.test", sender="ann@far.test", received_at=DAY)
    Recipient.objects.update(cause="x")
    Message.objects.filter(pk=message.pk).update(received_at=DAY + timedelta(minutes=3), client_ip="192.0.2.25")
    minute = timedelta(minutes=1)
    assert find(Wanted(since=DAY, until=DAY + minute, **more)) == {"bob@alpha.test"}
    assert find(Wanted(since=DAY + 3 * minute, until=DAY + 4 * minute, **more)) == set()


def test_a_trace_id_finds_its_mail(acme):
    assert find(recognise(make_some().trace_id.lower())) == {"bob@alpha.test"}


def test_the_docs_explain_each_outcome_by_its_word_and_its_label():
    text = (PROJECT / "docs/operations.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \| [^|]*\|$", text, re.MULTILINE))
    assert set(told) == set(Outcome.values)
    for outcome, label in Outcome.choices:
        finer = "Deleted, Expired" if outcome == Outcome.GONE else label
        assert told[outcome].startswith(finer), outcome
    for state in FINER:
        assert State(state).label in told[BY_STATE[state]]


def find_all(outcome: str) -> list[Recipient]:
    return find_page(list_ways(Wanted(outcome=outcome), Recipient.objects.all(), MailDomain.objects.all())).items


def test_every_state_has_one_outcome_by_which_it_is_found(acme):
    for state in State.values:
        keep("bob@alpha.test", state=state)
    keep("bob@alpha.test", state=State.UNFINISHED, reply="451 4.3.0 later")
    found = {outcome: find_all(outcome) for outcome in Outcome.values if outcome not in {"accepted", "held"}}
    for outcome, rows in found.items():
        assert rows, outcome
        assert {get_outcome(row) for row in rows} == {outcome}
    states = sorted([*(row.state for rows in found.values() for row in rows), State.QUARANTINED])
    assert states == sorted([*State.values, State.UNFINISHED])


def test_what_was_taken_is_found_by_what_was_decided_when_it_came(acme):
    """As it is counted: what was released, delivered or deleted since stays among what was held or accepted."""
    taken = [state for state in State.values if state not in {State.REFUSED, State.UNFINISHED}]
    for state in State.values:
        for action, domain in (("deliver", "alpha"), ("tag", "alpha"), ("quarantine", "beta"), ("refuse", "beta")):
            keep(f"{action}@{domain}.test", state=state, action=action)
    for outcome, domain in ((Outcome.ACCEPTED, "@alpha.test"), (Outcome.HELD, "@beta.test")):
        rows = find_all(outcome)
        assert sorted(row.state for row in rows) == sorted([*taken, *taken])
        assert all(row.address.endswith(domain) for row in rows)
    Message.objects.update(kind="digest")
    assert find_all(Outcome.ACCEPTED) == []


def test_pages_go_through_both_directions_once_newest_first(acme):
    """Mail from and to one address, on two indexes, as one list; what is from and to it comes once."""
    for hour in range(4):
        keep("bob@alpha.test", received_at=DAY + timedelta(hours=hour))
        keep("carol@alpha.test", sender="bob@alpha.test", received_at=DAY + timedelta(hours=hour, minutes=30))
        keep("bob@alpha.test", sender="bob@alpha.test", received_at=DAY)  # the same instant: the id decides
    ways = list_ways(recognise("bob@alpha.test"), Recipient.objects.select_related("message"), MailDomain.objects.all())
    seen, after = [], None
    while True:
        page = find_page(ways, after=after, size=5)
        seen += [(row.received_at, row.pk) for row in page.items]
        after = page.next
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 12
    assert [at for at, _ in seen] == sorted((at for at, _ in seen), reverse=True)


def test_a_walk_looks_through_so_many_rows_a_page_and_says_how_far_it_came(acme, monkeypatch):
    monkeypatch.setattr(tracing, "WALK", 4)
    for hour in range(10):
        keep("bob@alpha.test", received_at=DAY + timedelta(hours=hour), cause="loop" if hour in {1, 5, 8} else "")
    ways = list_ways(Wanted(cause="loop"), Recipient.objects.select_related("message"), MailDomain.objects.all())
    first = find_page(ways)
    assert ([row.received_at.hour for row in first.items], first.reached.hour) == ([20], 18)
    second = find_page(ways, after=first.next)
    assert ([row.received_at.hour for row in second.items], second.reached.hour) == ([17], 14)
    last = find_page(ways, after=second.next)
    assert ([row.received_at.hour for row in last.items], last.next, last.reached) == ([13], None, None)


def test_a_full_page_of_a_walk_goes_on_after_its_last_row(acme):
    for hour in range(5):
        keep("bob@alpha.test", received_at=DAY + timedelta(hours=hour), cause="loop")
    ways = list_ways(Wanted(cause="loop"), Recipient.objects.select_related("message"), MailDomain.objects.all())
    first = find_page(ways, size=2)
    assert [row.received_at.hour for row in first.items] == [16, 15]
    assert [row.received_at.hour for row in find_page(ways, after=first.next, size=2).items] == [14, 13]


def test_a_walk_of_two_ways_leaves_nothing_out_and_keeps_the_order(acme, monkeypatch):
    """Each way has looked back to another moment: what only one has come to waits for the next page."""
    monkeypatch.setattr(tracing, "WALK", 3)
    for hour in range(10):
        keep("bob@alpha.test", received_at=DAY + timedelta(hours=hour), cause="loop" if hour % 2 else "")
    for day in range(1, 6):
        late = {"sender": "bob@alpha.test", "received_at": DAY - timedelta(days=day)}
        keep("carol@alpha.test", cause="loop" if day % 2 else "", **late)
    wanted = recognise("bob@alpha.test").also(cause="loop")
    ways = list_ways(wanted, Recipient.objects.select_related("message"), MailDomain.objects.all())
    for size in (1, 2, 50):
        seen, page = [], find_page(ways, size=size)
        while page.next is not None:
            seen += page.items
            page = find_page(ways, after=page.next, size=size)
        at = [row.received_at for row in [*seen, *page.items]]
        assert at == [DAY + timedelta(hours=hour) for hour in (9, 7, 5, 3, 1)] + [
            DAY - timedelta(days=day) for day in (1, 3, 5)
        ]


@pytest.mark.parametrize("after", ["", "x", "_", "1-x_-", "9" * 30 + "-1_", "1-1_1-1_1-1_1-1"])
def test_a_broken_place_is_none(acme, after):
    keep("bob@alpha.test")
    ways = list_ways(recognise("bob@alpha.test"), Recipient.objects.all(), MailDomain.objects.all())
    assert len(find_page(ways, after=after).items) == (0 if after.startswith("1-1") else 1)


@pytest.mark.parametrize(
    ("wanted", "queries"),
    [
        (Wanted(trace_id=TRACE), 1),
        (Wanted(message_id="<4711@far.test>", party="spam@far.test"), 3),
        (Wanted(client=ip_network("192.0.2.25")), 1),
        (Wanted(client=ip_network("192.0.2.0/24")), 2),
        (Wanted(cause="loop"), 2),
    ],
)
def test_a_search_costs_the_same_for_one_row_and_for_three(acme, django_assert_num_queries, wanted, queries):
    for more in (1, 2):
        for _ in range(more):
            keep("bob@alpha.test", cause="loop")
        Message.objects.update(message_id="<4711@far.test>")
        with django_assert_num_queries(queries):
            page = find_page(list_ways(wanted, Recipient.objects.select_related("message"), MailDomain.objects.all()))
            assert all(row.message.sender for row in page.items)


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


def test_a_long_message_id_is_told_from_one_that_begins_like_it(db):
    with schema_context("sp_acme"):
        ids = [f"<{'a' * 900}{end}@far.test>" for end in "xy"]
        rows = [keep("bob@alpha.test") for _ in ids]
        for message, message_id in zip(rows, ids, strict=True):
            Message.objects.filter(pk=message.pk).update(message_id=message_id)
        ways = list_ways(Wanted(message_id=ids[0]), Recipient.objects.all(), MailDomain.objects.all())
        assert [row.message_id for row in find_page(ways).items] == [rows[0].pk]


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


def test_a_search_over_all_providers_goes_on_where_it_ended_and_leaves_nothing_out(db, monkeypatch):
    """Two providers, looked through to different moments; recipients of one message share theirs."""
    monkeypatch.setattr(tracing, "WALK", 4)
    made = set()
    for schema, addresses, step in (
        ("sp_acme", ["bob@alpha.test", "carol@alpha.test"], 1),
        ("sp_globex", ["gus@gamma.test"], 5),
    ):
        with schema_context(schema):
            for number in range(9):
                kept = keep(
                    *addresses, received_at=DAY - timedelta(hours=step * number), cause="loop" if number % 3 else ""
                )
                made |= {(kept.received_at, schema, row.pk) for row in kept.recipients.filter(cause="loop")}
    found, wanted = set(), Wanted(cause="loop")
    for _ in range(30):
        hits, reached = tracing.find_everywhere(wanted, ["sp_acme", "sp_globex"], limit=50)
        assert hits == sorted(hits, reverse=True)
        found |= set(hits)
        if reached is None:
            break
        wanted = Wanted(cause="loop", until=reached + timedelta(microseconds=1))
    assert found == made


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
