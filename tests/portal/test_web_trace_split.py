"""One transaction, one recipient refused and another accepted: who was refused learns nothing of the mail."""

from __future__ import annotations

import re
from html import unescape

import pytest

from portal.tenants.people.models import SenderRule
from tests.portal.browsing import browse, get_text
from tests.portal.traces import split

pytestmark = pytest.mark.django_db


OF_OTHERS = ("S-SECRET", "secret@far.test", "Secret Name", "ann@else.test", "<dt>Size", "answered 250")


@pytest.mark.parametrize("who", ["bob", "dora", "alice"])
def test_who_was_refused_is_told_nothing_of_mail_that_was_taken_for_others(acme, who):
    row, _ = split()
    client = browse(who)
    for path in (f"/trace/{row.pk}/", f"/m/{row.pk}/"):
        page = unescape(get_text(client.get(path)))
        assert "553 5.3.0 no PTR" in page
        for text in (*OF_OTHERS, "hello"):
            assert text not in page, (path, text)
    assert "We kept no content of it" in get_text(client.get(f"/trace/{row.pk}/"))
    page = get_text(client.get(f"/m/{row.pk}/"))
    assert "We have no content of it: it was refused before it was sent." in page
    assert "Its content was not judged." in page
    for path in (f"/m/{row.pk}/raw/", f"/m/{row.pk}/html/"):
        assert client.get(path).status_code == 404


def test_lists_name_mail_that_was_taken_for_others_by_its_envelope_to_who_was_refused(acme):
    split()
    client = browse("bob")
    for path in ("/trace/?q=bob@alpha.test", "/?show=all"):
        page = unescape(get_text(client.get(path)))
        assert "(refused before it was sent)" in page
        assert "ann@far.test" in page
        for text in OF_OTHERS:
            assert text not in page, (path, text)


@pytest.mark.parametrize(
    "path",
    ["/?show=all&q=secret", "/?show=all&q=else.test", "/trace/?q=ann@else.test", "/trace/?q=ann@else.test&from=1"],
)
def test_no_search_finds_who_was_refused_by_words_of_mail_that_was_taken_for_others(acme, path):
    row, other = split()
    assert re.search(rf'href="/\w+/{other.pk}/"', get_text(browse("carol").get(path)))
    assert not re.search(rf'href="/\w+/{row.pk}/"', get_text(browse("bob").get(path)))


def test_who_was_refused_is_not_told_that_the_mail_went_on_to_others(acme):
    row, _ = split()
    page = get_text(browse("bob").get(f"/trace/{row.pk}/"))
    assert "RCPT TO:&lt;bob@alpha.test&gt;" in page
    for text in ("354 End data", "Ok: kept", "carol", "for other recipients"):
        assert text not in page


def test_who_was_refused_is_not_told_that_the_mail_went_on_in_chunks(acme):
    row, _ = split()
    message = row.message
    message.refresh_from_db()
    message.replies = [
        ["BDAT 9", "250 2.0.0 Chunk received"] if command == "DATA" else [command, reply]
        for command, reply in message.replies
    ]
    message.save()
    page = get_text(browse("bob").get(f"/trace/{row.pk}/"))
    assert "RCPT TO:&lt;bob@alpha.test&gt;" in page
    assert "Chunk received" not in page


@pytest.mark.parametrize("who", ["dora", "alice"])
def test_an_admin_sees_that_the_mail_went_on_and_for_whom_it_did_not(acme, who):
    row, other = split()
    page = get_text(browse(who).get(f"/trace/{row.pk}/"))
    said = page.partition("What was said")[2]
    assert re.findall(r'"mono">([^<]*)</span><span class="line small muted">for other recipients', said) == [
        "DATA", "end of data",
    ]  # fmt: skip
    page = get_text(browse(who).get(f"/trace/{other.pk}/"))
    assert "S-SECRET" in page
    assert "for other recipients" not in page


def test_what_was_taken_is_told_to_whom_it_was_taken_for(acme):
    _, row = split()
    client = browse("carol")
    assert "S-SECRET" in get_text(client.get(f"/trace/{row.pk}/"))
    assert "hello" in get_text(client.get(f"/m/{row.pk}/"))
    assert client.get(f"/m/{row.pk}/raw/").status_code == 200


@pytest.mark.parametrize("who", ["dora", "alice"])
def test_no_rule_can_be_made_from_a_line_from_that_was_not_for_this_recipient(acme, who):
    row, _ = split()
    browse(who).post(f"/m/{row.pk}/sender/", {"action": "block", "scope": "domain", "whole": "0"})
    assert list(SenderRule.objects.values_list("pattern", flat=True)) == ["ann@far.test"]
