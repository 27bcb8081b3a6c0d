"""A search of a long list: it looks through it piece by piece, says how far it came, and goes on from there."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.utils import timezone

from quarantine.models import Recipient, State
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text
from tests.portal.test_web_quarantine import hold, list_subjects

pytestmark = pytest.mark.django_db
SEEN = re.compile(
    r"Number \d{3}(?=</a>)|Nothing so far|Nothing in this part|Nothing further back matches|Nothing matches"
)


@pytest.fixture
def pieces(acme, monkeypatch):
    """Seven messages of bob's, of which the even ones are from a shop; a piece is two of them, then three."""
    monkeypatch.setattr("portal.web.selection.SEARCHED", 2)
    monkeypatch.setattr("portal.web.selection.SEARCHED_FURTHER", 3)
    rows = hold(7)
    for row in Recipient.objects.filter(pk__in=rows[::2]).select_related("message"):
        row.message.sender = "news@shop.test"
        row.message.save()
    return rows


def follow(text: str, label: str) -> str:
    """Where the link of that label leads."""
    return unescape(re.search(rf'href="([^"]+)">{label}', text)[1])


def find_fields(text: str) -> dict[str, str]:
    """The hidden fields of the list's form: what a button sends along."""
    form = text[text.index('<form id="list"') :]
    return {name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)}


def test_every_message_that_matches_is_found_piece_by_piece(pieces):
    client, path, found = browse("bob"), "/?q=shop.test", []
    for expected in (["Number 000"], ["Number 002", "Number 004"], ["Number 006"]):
        text = get_text(client.get(path))
        assert SEEN.findall(text) == expected
        found += expected
        path = follow(text, "Search further back") if "Search further back" in text else ""
    assert not path
    assert "back to the oldest" in text
    assert list_subjects(get_text(client.get(follow(text, "← Newest")))) == ["Number 000"]


def test_it_says_how_far_it_looked_also_where_it_found_nothing(pieces):
    client = browse("bob")
    edge = timezone.localtime(Recipient.objects.get(pk=pieces[1]).received_at)
    text = get_text(client.get("/?q=zebra"))
    assert SEEN.findall(text) == ["Nothing so far"]
    assert f"back to {edge:%-d %b %Y, %H:%M}." in text
    assert re.search(r'id="count"[^>]*>0 messages so far', text)
    text = get_text(client.get(follow(text, "Search further back")))
    assert SEEN.findall(text) == ["Nothing in this part"]
    text = get_text(client.get(follow(text, "Search further back")))
    assert SEEN.findall(text) == ["Nothing further back matches"]


def test_a_category_is_searched_so_too_and_a_list_without_words_is_not(pieces):
    Recipient.objects.filter(pk=pieces[4]).update(category="virus")
    client = browse("bob")
    text = get_text(client.get("/?category=virus"))
    assert SEEN.findall(text) == ["Nothing so far"]
    assert "Number 004" in get_text(client.get(follow(text, "Search further back")))
    text = get_text(client.get("/"))
    assert len(list_subjects(text)) == 7
    assert "Search further back" not in text


def test_a_short_list_is_searched_whole_at_once(pieces, monkeypatch):
    monkeypatch.setattr("portal.web.selection.SEARCHED", 8)
    text = get_text(browse("bob").get("/?q=shop.test"))
    assert list_subjects(text) == ["Number 000", "Number 002", "Number 004", "Number 006"]
    assert not {"so far", "Searched", "further"} & set(re.findall(r"so far|Searched|further", text))


def test_all_that_match_are_those_that_were_looked_through(pieces):
    """Also where new mail has moved what would be looked through now, and other messages have gone."""
    client = browse("bob")
    first = get_text(client.get("/?q=shop.test"))
    fields = find_fields(get_text(client.get(follow(first, "Search further back"))))
    keep("bob@alpha.test", subject="Number 999", sender="news@shop.test")
    Recipient.objects.filter(pk=pieces[3]).delete()
    client.post("/act/", fields | {"matching": "1", "action": "release"})
    released = Recipient.objects.filter(state=State.RELEASING).values_list("pk", flat=True)
    assert set(released) == {pieces[2], pieces[4]}


def test_after_an_action_the_same_piece_is_shown_again(pieces):
    client = browse("bob")
    path = follow(get_text(client.get("/?q=shop.test")), "Search further back")
    fields = find_fields(get_text(client.get(path)))
    text = get_text(client.post("/act/", fields | {"id": [pieces[2]], "action": "release"}, follow=True))
    assert list_subjects(text) == ["Number 004"]
    assert "Number 006" in get_text(client.get(follow(text, "Search further back")))


def test_another_tab_is_searched_from_its_newest_message(pieces):
    client = browse("bob")
    text = get_text(client.get(follow(get_text(client.get("/?q=shop.test")), "Search further back")))
    assert "since" not in (tab := follow(text, "All mail"))
    assert "Number 000" in get_text(client.get(tab))


@pytest.mark.parametrize("query", ["since=never&until=%00", "since=2026-01-01&until=2026-13-41T99:00", "until=-"])
def test_a_broken_time_is_none(pieces, query):
    assert list_subjects(get_text(browse("bob").get(f"/?q=shop.test&{query}"))) == ["Number 000"]
