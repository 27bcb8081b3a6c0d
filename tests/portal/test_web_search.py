"""A search of a long list: it looks through it piece by piece, says how far it came, and goes on from there."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from urllib.parse import unquote

import pytest
from django.utils import timezone

from quarantine.models import Recipient, State
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text
from tests.portal.test_web_quarantine import HTMX, hold, list_subjects

pytestmark = pytest.mark.django_db
SEEN = re.compile(r"Number \d{3}(?=</a>)|Nothing (?:so far|in this part|further back|matches)")


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
    assert re.search(r'id="count"[^>]*>0 messages\s+so far', text)
    text = get_text(client.get(follow(text, "Search further back")))
    assert SEEN.findall(text) == ["Nothing in this part"]
    text = get_text(client.get(follow(text, "Search further back")))
    assert SEEN.findall(text) == ["Nothing further back"]
    assert "back to the oldest." in text
    assert "No message fits this search" not in text  # one of an earlier part may


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


def test_before_all_that_match_are_deleted_it_is_said_in_which_part(pieces):
    client = browse("bob")
    fields = find_fields(get_text(client.get(follow(get_text(client.get("/?q=shop.test")), "Search further back"))))
    newest, oldest = (Recipient.objects.get(pk=pieces[number]).received_at for number in (1, 4))
    for matching, told in (({"matching": "1"}, True), ({"id": [pieces[2], pieces[4]]}, False)):
        text = get_text(client.post("/act/", fields | matching | {"action": "delete"}))
        assert "Delete 2 messages?" in text
        assert ("They match the search." in text) is told
        begin, end = (f"{timezone.localtime(at):%-d %b %Y, %H:%M}" for at in (newest, oldest))
        assert (f"Searched from {begin} back to {end}." in text) is told


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


def test_the_answer_to_an_action_tells_the_address_which_part_is_shown(pieces):
    """By which the page looks again, while something is on its way."""
    client = browse("bob")
    fields = find_fields(get_text(client.get("/?q=shop.test")))
    response = client.post("/act/", fields | {"id": [pieces[0]], "action": "release"}, **HTMX)
    assert SEEN.findall(get_text(response)) == ["Nothing so far"]
    assert SEEN.findall(get_text(client.get(response["HX-Replace-Url"], **HTMX))) == ["Nothing so far"]


def test_pages_of_a_part_lead_through_it_and_back(acme, monkeypatch):
    monkeypatch.setattr("portal.web.selection.SEARCHED", 60)
    monkeypatch.setattr("portal.web.selection.SEARCHED_FURTHER", 60)
    hold(150)
    client, path, seen, sizes = browse("bob"), "/?q=Number", [], []
    while path:
        text = get_text(client.get(path))
        seen += list_subjects(text)
        sizes.append(len(list_subjects(text)))
        older = re.search(r'rel="next" href="([^"]+)"', text)
        path = unescape(older[1]) if older else follow(text, "Search further") if "Search further" in text else ""
        if sizes == [50, 10, 50, 10]:
            newer = unescape(re.search(r'rel="prev" href="([^"]+)"', text)[1])
            assert list_subjects(get_text(client.get(newer))) == seen[60:110]
    assert seen == [f"Number {n:03}" for n in range(150)]
    assert sizes == [50, 10, 50, 10, 30]


def test_messages_of_one_moment_are_found_once(acme, monkeypatch):
    monkeypatch.setattr("portal.web.selection.SEARCHED", 2)
    monkeypatch.setattr("portal.web.selection.SEARCHED_FURTHER", 2)
    rows = hold(6)
    moment = Recipient.objects.get(pk=rows[2]).received_at
    Recipient.objects.filter(pk__in=rows[1:5]).update(received_at=moment)
    client, path, seen = browse("bob"), "/?q=Number", []
    while path:
        text = get_text(client.get(path))
        seen += list_subjects(text)
        path = follow(text, "Search further back") if "Search further back" in text else ""
    assert sorted(seen) == [f"Number {n:03}" for n in range(6)]


@pytest.mark.parametrize(("who", "parts"), [("bob", [2, 3, 2]), ("dora", [1, 1, 1]), ("alice", [1, 1, 1])])
def test_how_far_a_search_looks_goes_by_what_its_viewer_sees(pieces, who, parts):
    """Between two messages of bob's there are two of carol's: admins look through these, too."""
    for row in Recipient.objects.filter(pk__in=pieces):
        for seconds in (1, 2):
            keep("carol@alpha.test", received_at=row.received_at - timedelta(seconds=seconds))
    client, path, found = browse(who), "/?q=Number", []
    for _ in parts:
        text = get_text(client.get(path))
        found.append(len(list_subjects(text)))
        path = follow(text, "Search further back") if "Search further back" in text else ""
    assert found == parts


def test_a_part_may_begin_where_it_likes_but_not_be_longer(pieces):
    text = get_text(browse("bob").get("/?q=shop.test&since=1970-01-01T00:00:00Z"))
    assert SEEN.findall(text) == ["Number 000"]
    assert "Search further back" in text


def test_a_list_that_is_not_searched_has_no_parts(pieces):
    assert len(list_subjects(get_text(browse("bob").get("/?until=1990-01-01T00:00:00Z")))) == 7


@pytest.mark.parametrize(
    "moment",
    [
        "never",
        "%00",
        "-",
        "2026-01-01",
        "2026-13-41T99:00",
        "2026-01-01T00:00:00%2B20:00",
        "0001-01-01T00:00:00%2B14:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_a_broken_time_is_none_or_one_that_can_be_told(pieces, moment):
    client = browse("bob")
    for name in ("since", "until"):
        text = get_text(client.get(f"/?q=shop.test&{name}={moment}"))
        assert SEEN.findall(text) in (["Number 000"], ["Nothing further back"]), moment
    response = client.post("/act/", {"matching": "1", "q": "zebra", "seen": unquote(moment), "action": "release"})
    assert response.status_code == 302
