"""The page on which mail is searched: what may be typed, what is said of it, and its pages."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine import tracing
from quarantine.models import Event, Message, Recipient
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text
from tests.portal.traces import NO_TRACE, NOON, count, find, refuse, search

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("typed", ["ann@far.test bob@alpha.test", "Bob@alpha.test, ann@FAR.test"])
def test_two_addresses_find_what_one_sent_to_the_other(acme, typed):
    keep("bob@alpha.test", subject="S-TO", sender="ann@far.test")
    keep("bob@alpha.test", subject="S-OTHER", sender="ben@far.test")
    keep("carol@alpha.test", subject="S-ELSE", sender="ann@far.test")
    assert find("dora", q=typed) == {"S-TO"}
    assert find("carol", q=typed) == set()


@pytest.mark.parametrize("who", ["bob", "dora", "alice"])
def test_a_trace_id_that_leads_nowhere_says_what_it_may_be_and_what_to_look_for(acme, who):
    text = search(who, q="550 5.7.1 Relaying denied: we take no mail for this domain (trace 01JAAAAAAAAAAAAAAAAA)")
    assert NO_TRACE in text
    assert "its domain is not served here (“Relaying denied”)" in text
    assert "only the people who run this service find those" in text
    assert "Look for the sender, the recipient or the address of the sending mail server instead." in text
    assert "We never saw such a mail" not in text


@pytest.mark.parametrize(("who", "may"), [("dora", True), ("alice", True), ("bob", False)])
def test_who_looks_after_the_domain_is_led_to_letting_the_server_in(acme, who, may):
    row = refuse("bob@alpha.test")
    Recipient.objects.filter(pk=row.pk).update(mailbox=Mailbox.objects.get(address="bob@alpha.test"))
    text = unescape(get_text(browse(who).get(f"/trace/{row.pk}/")))
    assert ("Let this server in for a time" in text) is may
    assert (f"/reverse-dns/?network={row.message.client_ip}&domain={row.domain_id}#grant" in text) is may


def test_what_is_in_brackets_is_a_message_id_and_is_said_to_be(acme):
    message = keep("bob@alpha.test", subject="S-WANTED", sender="ann@far.test")
    Message.objects.filter(pk=message.pk).update(message_id="<a@b.test>")
    keep("bob@alpha.test", subject="S-OTHER", sender="a@b.test")
    assert find("bob", q="<a@b.test>") == {"S-WANTED"}
    assert "Newest first: Message-ID <a@b.test>. Times" in search("bob", q="<a@b.test>")
    assert find("bob", q="a@b.test") == {"S-WANTED", "S-OTHER"}  # without them it may be either
    empty = browse("bob").get("/trace/", {"q": "<ann@far.test>"})
    assert "Searched: Message-ID <ann@far.test>; in mail for" in unescape(get_text(empty))
    assert 'If it is an address, <a href="?q=ann%40far.test">look for ann@far.test</a> without brackets.' in get_text(
        empty
    )
    assert "If it is an address" not in search("bob", q="<4711.abc>")


def test_an_empty_answer_says_what_was_searched_where_and_what_it_means(acme):
    text = search("bob", q="ann@far.test", outcome="refused")
    assert NO_TRACE in text
    told = "from or to ann@far.test, or with that as Message-ID, outcome “Refused”, and the line From"
    assert f"Searched: {told}; in mail for bob@alpha.test." in text
    assert "Ask the sender for the error message" in text
    assert "for 90 days" in text
    assert "spelled wrong" not in text
    assert "spelled wrong" in search("dora", q="ann@far.test")
    assert "in all mail of Acme IT" in search("alice", q="ann@far.test")
    Mailbox.objects.update(owner=None)
    assert "you have no mailbox yet" in search("bob", q="ann@far.test")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"q": "last invoice"}, "“last invoice” is no trace id, Message-ID, address, @domain"),
        ({"q": "last invoice"}, "Words of the subject are searched under"),
        ({"q": "far.test"}, "type an @ before it: @far.test."),
        ({"sender": "ann"}, "is no address such as"),
        ({"client": "999.0.0.1"}, "is no IP address"),
        ({"since": "x"}, "Type a date and a time."),
        ({"since": "2026-02-30T10:00"}, "Type a date and a time."),
        ({"since": "0001-01-01T00:00+05:00"}, "Type a date and a time."),
        ({"until": "9999-12-31T23:59-05:00"}, "Type a date and a time."),
        ({"outcome": "x"}, "is not one of the available choices"),
        ({"cause": "x"}, "is not one of the available choices"),
        ({"cause": "sent_again"}, "is not one of the available choices"),  # no row has it: it is an event
    ],
)
def test_what_cannot_be_read_is_said_beside_its_field(acme, query, sentence):
    keep("bob@alpha.test", subject="S-BOB")
    text = search("bob", **query)
    assert sentence in text
    assert "S-BOB" not in text


def test_times_are_those_of_the_viewers_domain(acme):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Asia/Kolkata")  # UTC+5:30
    keep("bob@alpha.test", subject="S-NOON", received_at=NOON)
    assert find("bob", since="2026-11-02T17:30", until="2026-11-02T17:31") == {"S-NOON"}
    assert find("bob", since="2026-11-02T12:00", until="2026-11-02T12:01") == set()
    text = search("bob", since=NOON.isoformat(), until=(NOON + timedelta(hours=1)).isoformat())
    assert "S-NOON" in text
    assert 'value="2026-11-02T17:30"' in text
    assert "since 2 Nov 2026 17:30" in text


def test_pages_go_on_with_the_same_search(acme, monkeypatch):
    monkeypatch.setattr("portal.web.views.trace.LISTED", 2)
    for number in range(3):
        keep(
            "bob@alpha.test",
            subject=f"S-{'ABC'[number]}",
            sender="ann@far.test",
            received_at=NOON + timedelta(hours=number),
        )
    client = browse("bob")
    first = unescape(get_text(client.get("/trace/?q=ann@far.test")))
    assert set(re.findall(r"\bS-[ABC]\b", first)) == {"S-B", "S-C"}
    second = unescape(get_text(client.get("/trace/" + re.search(r'rel="next" href="([^"]+)"', first).group(1))))
    assert set(re.findall(r"\bS-[ABC]\b", second)) == {"S-A"}
    assert 'href="?q=ann%40far.test">Back to the newest' in second


def test_a_search_that_has_to_look_through_says_how_far_it_came(acme, monkeypatch):
    monkeypatch.setattr(tracing, "WALK", 2)
    for number in range(5):
        keep("bob@alpha.test", subject=f"S-{'ABCDE'[number]}", received_at=NOON + timedelta(hours=number),
             cause="loop" if number == 1 else "")  # fmt: skip
    client = browse("bob")
    text = unescape(get_text(client.get("/trace/?cause=loop")))
    assert "We looked through everything back to 2 Nov 2026, 15:00" in text
    text = unescape(get_text(client.get("/trace/" + re.search(r'href="(\?[^"]+)">Look further back', text).group(1))))
    assert "S-B" in text
    assert "Looked through back to 2 Nov 2026, 13:00" in text


def test_an_address_of_no_envelope_is_looked_for_in_the_line_from(acme):
    message = keep("bob@alpha.test", subject="S-NEWS", sender="bounce-17@mailer.test")
    Message.objects.filter(pk=message.pk).update(header_from="Shop <news@shop.test>")
    assert find("bob", q="news@shop.test") == {"S-NEWS"}
    keep("bob@alpha.test", subject="S-DIRECT", sender="news@shop.test")
    text = search("bob", q="news@shop.test")
    assert "S-NEWS" not in text
    link = re.search(r'href="(\?[^"]+)">Look for the address in the lines From', text).group(1)
    assert "S-NEWS" in get_text(browse("bob").get("/trace/" + link))


@pytest.mark.parametrize("path", ["/trace/?q=ann@far.test", "/trace/?cause=loop", "/activity/", "/trace/{}/"])
def test_pages_cost_the_same_for_one_row_and_for_three(acme, path):
    seen = []
    for more in (1, 2):
        for _ in range(more):
            row = keep("bob@alpha.test", sender="ann@far.test", cause="loop").recipients.get()
            Event.objects.create(message=row.message, recipient=row, kind="held")
            count(timezone.now().replace(minute=0, second=0, microsecond=0), cause=f"c{row.pk}", domain="alpha.test")
        client = browse("alice")
        with CaptureQueriesContext(connection) as captured:
            assert client.get(path.format(row.pk)).status_code == 200
        seen.append(len(captured))
    assert seen[0] == seen[1]


def test_what_was_found_is_not_pushed_away_by_the_form(acme):
    """A number of Activity leads to its mail, also on a phone; the form is open where it has to be changed."""
    keep("bob@alpha.test", subject="S-BOB")
    assert '<details class="more">' in search("bob", outcome="held")
    assert "outcome “Held in quarantine”" in search("bob", outcome="held")
    assert '<details class="more" open>' in search("bob", outcome="refused")
    assert '<details class="more" open>' in search("bob", sender="ann")
