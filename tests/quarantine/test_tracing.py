"""What somebody knows of a mail leads to its trace, newest first, page after page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from django_tenants.utils import schema_context

from portal.settings.environment import PROJECT
from portal.tenants.database import get_schema
from portal.tenants.models import MailDomain
from quarantine import tracing
from quarantine.models import Message, Recipient, State
from quarantine.outcomes import BY_STATE, FINER, Outcome, get_outcome
from quarantine.tracing import find_page, list_ways
from quarantine.wanted import Wanted, recognise
from tests.kept_mail import keep

DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)
TRACE = "01JABCDEFGH1K0MNPQRS"


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


def test_a_long_message_id_is_told_from_one_that_begins_like_it(db):
    with schema_context("sp_acme"):
        ids = [f"<{'a' * 900}{end}@far.test>" for end in "xy"]
        rows = [keep("bob@alpha.test") for _ in ids]
        for message, message_id in zip(rows, ids, strict=True):
            Message.objects.filter(pk=message.pk).update(message_id=message_id)
        ways = list_ways(Wanted(message_id=ids[0]), Recipient.objects.all(), MailDomain.objects.all())
        assert [row.message_id for row in find_page(ways).items] == [rows[0].pk]


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
