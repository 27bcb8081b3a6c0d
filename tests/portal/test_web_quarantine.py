"""The list of mail: what it shows, how it is walked, and what is done from it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, SenderRule, User
from quarantine.models import Message, Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text

HTMX = {"HTTP_HX_REQUEST": "true", "HTTP_HX_TARGET": "list"}
pytestmark = pytest.mark.django_db


def hold(count: int, address: str = "bob@alpha.test", **fields) -> list[int]:
    """Held messages, the newest first; their row ids."""
    now = timezone.now()
    made = [
        keep(address, subject=f"Number {n:03}", received_at=now - timedelta(minutes=n), **fields) for n in range(count)
    ]
    return [message.recipients.get().pk for message in made]


def list_subjects(text: str) -> list[str]:
    return re.findall(r"Number \d{3}(?=</a>)", text)


def list_states() -> list[str]:
    return list(Recipient.objects.order_by("-received_at").values_list("state", flat=True))


def test_a_page_has_fifty_and_leads_to_older_and_back(acme):
    hold(120)
    client = browse("bob")
    seen, addresses, path = [], [], "/"
    while path:
        text = get_text(client.get(path))
        seen += list_subjects(text)
        addresses.append(path)
        older = re.search(r'rel="next" href="([^"]+)"', text)
        path = older[1].replace("&amp;", "&") if older else ""
    assert seen == [f"Number {n:03}" for n in range(120)]
    back = []
    while newer := re.search(r'rel="prev" href="([^"]+)"', text):
        text = get_text(client.get(newer[1].replace("&amp;", "&")))
        back.append(list_subjects(text)[0])
    assert back == ["Number 050", "Number 000"]


def test_new_mail_does_not_shift_the_older_page(acme):
    hold(60)
    client = browse("bob")
    older = re.search(r'rel="next" href="([^"]+)"', get_text(client.get("/")))[1].replace("&amp;", "&")
    keep("bob@alpha.test", subject="Number 999")
    assert list_subjects(get_text(client.get(older))) == [f"Number {n:03}" for n in range(50, 60)]


@pytest.mark.parametrize("name", ["bob", "dora", "alice"])
def test_the_list_costs_the_same_queries_whatever_its_length(acme, name):
    hold(1)
    client = browse(name)
    client.get("/")

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert client.get("/").status_code == 200
        return len([query for query in queries.captured_queries if "search_path" not in query["sql"]])

    one = count()
    hold(3)
    assert count() == one <= 14


def test_the_columns_say_what_one_needs_to_decide(acme):
    keep("bob@alpha.test", subject="Cheap watches", sender="seller@far.test", score=12.34, category="sure_spam")
    text = get_text(browse("bob").get("/"))
    for part in ("Cheap watches", "Spammer", "seller@far.test", "12.3", "Sure spam", "Today"):
        assert part in text
    assert ">To</th>" not in text
    assert ">To</th>" in get_text(browse("dora").get("/"))


def test_times_are_in_the_domains_zone(acme):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Asia/Tokyo")
    at = timezone.now().replace(hour=20, minute=15)
    keep("bob@alpha.test", received_at=at - timedelta(days=30))
    text = get_text(browse("bob").get("/"))
    assert "05:15</time>" in text
    assert "Times are in Asia/Tokyo." in text
    assert "20:15</time>" in get_text(browse("alice").get("/"))  # two zones: UTC, and it says so
    assert "Times are in UTC." in get_text(browse("alice").get("/"))


def test_search_category_domain_and_mailbox_narrow_it(acme):
    keep("bob@alpha.test", subject="Number 001 watches", sender="a@far.test")
    keep("carol@alpha.test", subject="Number 002 boats", category="virus")
    keep("bea@beta.test", subject="Number 003 boats")
    client = browse("alice")
    beta, bob = MailDomain.objects.get(name="beta.test"), Mailbox.objects.get(address="bob@alpha.test")
    for query, numbers in (
        ("q=boats", {"002", "003"}),
        ("q=A@FAR.test", {"001"}),
        ("q=carol@", {"002"}),
        ("category=virus", {"002"}),
        (f"domain={beta.pk}", {"003"}),
        (f"mailbox={bob.pk}", {"001"}),
        (f"q=boats&domain={beta.pk}", {"003"}),
        ("q=%00%25_'\"--", set()),
    ):
        found = set(re.findall(r"Number (\d{3}) ", get_text(client.get(f"/?{query}"))))
        assert found == numbers, query


def test_release_queues_the_chosen_and_says_so(acme):
    ids = hold(3)
    response = browse("bob").post("/act/", {"id": ids[:2], "action": "release"}, follow=True)
    assert "2 messages are being released." in get_text(response)
    assert list_states() == [State.RELEASING, State.RELEASING, State.QUARANTINED]
    assert DeliveryJob.objects.filter(lane="release").count() == 2
    assert Recipient.objects.get(pk=ids[0]).changed_by == "bob@alpha.test"


def test_htmx_gets_the_list_again_with_a_status_and_the_count(acme):
    ids = hold(3)
    text = get_text(browse("bob").post("/act/", {"id": ids[:1], "action": "release"}, **HTMX))
    assert text.lstrip().startswith('<form id="list"')
    assert "1 message is being released." in text
    assert list_subjects(text) == ["Number 001", "Number 002"]
    assert re.search(r'id="count"[^>]*>2 messages', text)
    assert "<html" not in text


def test_looking_again_leaves_the_notice_and_a_search_removes_it(acme):
    hold(1)
    client = browse("bob")
    assert 'id="status"' not in get_text(client.get("/?show=released", HTTP_LAZARET_REFRESH="1", **HTMX))
    assert '<div id="status" hx-swap-oob="innerHTML"></div>' in get_text(client.get("/?q=Number", **HTMX))


def test_all_that_match_acts_on_what_was_shown(acme):
    hold(60)
    client = browse("bob")
    seen = re.search(r'name="seen" value="([^"]+)"', get_text(client.get("/?q=Number")))[1]
    late = keep("bob@alpha.test", subject="Number 999").recipients.get()
    text = get_text(
        client.post("/act/", {"matching": "1", "q": "Number", "seen": seen, "action": "release"}, follow=True)
    )
    assert "60 messages are being released." in text
    late.refresh_from_db()
    assert late.state == State.QUARANTINED


@pytest.mark.parametrize(("action", "state"), [("release", State.RELEASING), ("delete", State.DELETED)])
def test_many_rows_are_changed_in_short_transactions(acme, monkeypatch, action, state):
    monkeypatch.setattr("portal.web.actions.BATCH", 2)
    hold(5)
    with CaptureQueriesContext(connection) as queries:
        browse("bob").post("/act/", {"matching": "1", "action": action, "confirmed": "1"})
    assert list_states() == [state] * 5
    assert sum("UPDATE quarantine_recipient" in query["sql"] for query in queries) == 3


def test_the_page_box_chooses_the_page_without_a_script(acme):
    ids = hold(3)
    browse("bob").post("/act/", {"page": ",".join(map(str, ids[:2])) + ",", "action": "release"})
    assert list_states() == [State.RELEASING, State.RELEASING, State.QUARANTINED]


def test_deleting_asks_first(acme):
    ids = hold(2)
    client = browse("bob")
    asked = client.post("/act/", {"id": ids, "action": "delete"})
    assert "Delete 2 messages?" in get_text(asked)
    assert set(list_states()) == {State.QUARANTINED}
    response = client.post("/act/", {"id": ids, "action": "delete", "confirmed": "1"}, follow=True)
    assert "2 messages deleted." in get_text(response)
    assert set(list_states()) == {State.DELETED}


def test_nothing_chosen_is_said(acme):
    hold(1)
    for data in ({"action": "release"}, {"action": "explode"}, {}):
        assert "Choose one or more messages first." in get_text(browse("bob").post("/act/", data, follow=True))


def test_releasing_twice_does_it_once(acme):
    ids = hold(1)
    client = browse("bob")
    client.post("/act/", {"id": ids, "action": "release"})
    text = get_text(client.post("/act/", {"id": ids, "action": "release"}, follow=True))
    assert "Nothing was released" in text
    assert DeliveryJob.objects.count() == 1


def test_allow_and_block_are_for_the_mailbox_that_got_it(acme):
    message = keep("bob@alpha.test", sender="bounce-1@lists.test")
    Message.objects.filter(pk=message.pk).update(evidence={"content": {"from_address": "ann@partner.test"}})
    row = message.recipients.get()
    client = browse("alice")
    text = get_text(client.post("/act/", {"id": row.pk, "action": "allow"}, follow=True))
    assert "ann@partner.test is allowed from now on, for bob@alpha.test." in text
    rule = SenderRule.objects.get()
    assert (rule.action, rule.pattern, rule.mailbox_id) == ("allow", "ann@partner.test", row.mailbox_id)
    client.post("/act/", {"id": row.pk, "action": "block"})
    assert SenderRule.objects.get().action == "block"


def test_viruses_are_released_by_admins_only(acme):
    row = keep("bob@alpha.test", category="virus").recipients.get()
    text = get_text(browse("bob").post("/act/", {"id": row.pk, "action": "release"}, follow=True))
    assert "only an admin can release it" in text
    assert browse("bob").get(f"/m/{row.pk}/raw/").status_code == 404
    assert list_states() == [State.QUARANTINED]
    browse("dora").post("/act/", {"id": row.pk, "action": "release"})
    assert list_states() == [State.RELEASING]


def test_an_admin_of_another_domain_is_no_admin_of_a_virus(acme):
    """Dora looks after alpha.test, and has a mailbox at beta.test like anybody there."""
    dora = User.objects.get(email="dora@alpha.test")
    Mailbox.objects.filter(address="bea@beta.test").update(owner=dora)
    row = keep("bea@beta.test", category="virus").recipients.get()
    client = browse("dora")
    assert "only an admin can release it" in get_text(
        client.post("/act/", {"id": row.pk, "action": "release"}, follow=True)
    )
    assert "Only an admin can release it" in get_text(client.get(f"/m/{row.pk}/"))
    assert client.get(f"/m/{row.pk}/raw/").status_code == 404
    assert list_states() == [State.QUARANTINED]


def test_blocking_many_senders_costs_no_more_queries_than_blocking_few(acme):
    client, counts = browse("bob"), []
    for number in (2, 40):
        ids = [keep("bob@alpha.test", sender=f"s{number}-{n}@far.test").recipients.get().pk for n in range(number)]
        with CaptureQueriesContext(connection) as queries:
            client.post("/act/", {"id": ids, "action": "block"})
        counts.append(len(queries))
    assert counts[1] <= counts[0]
    assert SenderRule.objects.filter(action="block").count() == 42


def test_what_a_bulk_rule_left_out_is_said(acme, monkeypatch):
    monkeypatch.setattr("portal.web.actions.MAX_MESSAGES", 2)
    ids = [keep("bob@alpha.test", sender=f"s{n}@far.test").recipients.get().pk for n in range(3)]
    text = get_text(browse("bob").post("/act/", {"id": ids, "action": "block"}, follow=True))
    assert "2 senders are blocked from now on, for bob@alpha.test. Of the messages only the newest 2" in text


def test_nothing_vanishes(acme):
    """Every state is found, with the server's reply or ours."""
    replies = {
        State.RELEASED: "250 2.0.0 queued as 4711",
        State.HELD: "550 5.7.1 not wanted here",
        State.REFUSED: "553 5.3.0 Could not resolve PTR record for 192.0.2.25",
        State.DEFERRED: "451 4.3.0 try later",
        State.DELIVERED: "250 2.0.0 Ok",
    }
    for state in State.values:
        cause = "policy" if state == State.REFUSED else ""
        keep("bob@alpha.test", subject=f"Became {state}", state=state, reply=replies.get(state, ""), cause=cause)
    for name in ("bob", "dora", "alice"):
        text = get_text(browse(name).get("/?show=all"))
        for state in State.values:
            title = "(subject not known)" if state == State.UNFINISHED else f"Became {state}"
            assert title in text
        for reply in replies.values():
            assert reply in text
    text = get_text(browse("bob").get("/?show=released"))
    assert set(re.findall(r"Became (\w+)</a>", text)) == {"released", "releasing", "held"}


def test_what_the_server_refused_can_be_tried_again(acme):
    row = keep("bob@alpha.test", state=State.HELD, reply="550 no").recipients.get()
    browse("bob").post("/act/", {"id": row.pk, "show": "released", "action": "release"})
    assert list_states() == [State.RELEASING]


def test_what_the_server_refused_cannot_be_overlooked(acme):
    assert "Refused by server" not in get_text(browse("bob").get("/"))
    keep("bob@alpha.test", subject="Not taken", state=State.HELD, reply="550 5.1.1 nobody here")
    keep("carol@alpha.test", subject="Of Carol", state=State.HELD)
    text = get_text(browse("bob").get("/"))
    assert "Refused by server (1)" in text
    assert "Nothing is in quarantine" in text
    text = get_text(browse("bob").get("/?show=refused"))
    assert "Not taken</a>" in text
    assert "Of Carol" not in text
    assert "Refused by server (2)" in get_text(browse("dora").get("/"))


def test_after_the_last_of_a_page_the_newest_are_shown(acme):
    ids = hold(51)
    client = browse("bob")
    after = re.search(r"after=([\d-]+)", get_text(client.get("/")))[1]
    text = get_text(client.post("/act/", {"id": ids[50], "after": after, "action": "release"}, **HTMX))
    assert "Number 000" in text


def test_pages_with_mail_are_kept_by_no_cache(acme):
    hold(1)
    assert browse("bob").get("/")["Cache-Control"] == "no-store"


def test_an_htmx_call_of_a_stranger_leads_to_sign_in(db):
    response = browse().post("/act/", **HTMX)
    assert response.status_code == 204
    assert response["HX-Redirect"].startswith("/sign-in/")


def test_the_count_is_bounded(acme):
    message = keep("bob@alpha.test")
    row = message.recipients.get()
    fields = {"address": row.address, "mailbox": row.mailbox, "domain_id": row.domain_id, "state": row.state}
    fields |= {"received_at": row.received_at, "action": "quarantine", "category": "spam"}
    Recipient.objects.bulk_create(Recipient(message=message, **fields) for _ in range(1005))
    assert "1,000+ messages" in get_text(browse("bob").get("/"))
