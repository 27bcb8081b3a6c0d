"""Finding what became of a mail in the portal: who finds what, and what is told of others."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from quarantine.models import Event, Message, Recipient, State
from quarantine.platform.models import Unrouted
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text
from tests.portal.traces import NO_TRACE, find, refuse, search

pytestmark = pytest.mark.django_db


def share() -> dict[str, Recipient]:
    """One transaction for Bob, for Carol as a blind copy, and for Bea at another domain of the provider."""
    message = keep("bob@alpha.test", "carol@alpha.test", "bea@beta.test", subject="S-SHARED", sender="ann@far.test")
    message.replies = [
        ["MAIL FROM:<ann@far.test>", "250 2.1.0 Sender ok"],
        ["RCPT TO:<Bob@alpha.test>", "250 2.1.5 Recipient ok"],
        ["RCPT TO:<carol@alpha.test>", "250 2.1.5 Recipient ok"],
        ["RCPT TO:<bea@beta.test>", "250 2.1.5 Recipient ok, as bea@beta.test"],
        ["RCPT TO:<nobody@alpha.test>", "550 5.1.1 No such mailbox here"],
        ["DATA", "354 End data"],
        ["end of data", "250 2.0.0 Ok, but not carol@alpha.test"],
        ["end of data", "250 2.0.0 Ok: kept"],
    ]
    message.save()
    rows = {row.address.partition("@")[0]: row for row in message.recipients.all()}
    for row in rows.values():
        Event.objects.create(message=message, recipient=row, kind="held", text=f"event of {row.address}")
    return rows


# Who finds what


@pytest.mark.parametrize(
    ("who", "found"),
    [
        ("bob", {"S-BOB"}),
        ("carol", {"S-CAROL"}),
        ("bea", {"S-BEA"}),
        ("dora", {"S-BOB", "S-CAROL", "S-NOBODY"}),
        ("alice", {"S-BOB", "S-CAROL", "S-BEA", "S-NOBODY"}),
    ],
)
def test_each_finds_what_is_theirs_whatever_is_searched(acme, who, found):
    at = timezone.now()
    for name in ("bob@alpha.test", "carol@alpha.test", "bea@beta.test", "nobody@alpha.test"):
        subject = f"S-{name.partition('@')[0].upper()}"
        message = keep(name, subject=subject, sender="ann@far.test", received_at=at, state=State.REFUSED, cause="loop")
        Message.objects.filter(pk=message.pk).update(message_id="<4711@far.test>", header_from="A <a@office.test>")
    for query in (
        {"q": "ann@far.test"},
        {"q": "<4711@far.test>"},
        {"q": "192.0.2.25"},
        {"q": "192.0.2.0/24"},
        {"q": "@far.test"},
        {"q": "a@office.test"},
        {"sender": "ann@far.test"},
        {"client": "192.0.2.25", "outcome": "refused"},
        {"outcome": "refused"},
        {"cause": "loop"},
        {"since": (at - timedelta(hours=1)).isoformat()},
    ):
        assert find(who, **query) == found, query


def test_another_provider_finds_nothing(db):
    with schema_context("sp_acme"):
        row = keep("bob@alpha.test", subject="S-BOB", sender="ann@far.test").recipients.get()
        trace_id = row.message.trace_id
    for query in ("ann@far.test", trace_id, "192.0.2.25", "bob@alpha.test", "@alpha.test"):
        text = search("mallory", at="globex", q=query)
        assert NO_TRACE in text
        assert "S-BOB" not in text
    assert browse("mallory", at="globex").get(f"/trace/{row.pk}/").status_code == 404
    assert browse("mallory").get("/trace/?q=ann@far.test").status_code == 302
    assert browse().get(f"/trace/{row.pk}/").status_code == 302


def test_what_is_anothers_and_what_never_was_are_answered_alike(acme):
    trace_id = keep("carol@alpha.test").trace_id
    never = "0" * 20
    told = search("bob", q=trace_id).replace(trace_id, "X")
    assert NO_TRACE in told
    token = re.compile(r'name="csrfmiddlewaretoken" value="[^"]+"')
    assert token.sub("", told) == token.sub("", search("bob", q=never).replace(never, "X"))


def test_a_domain_admin_learns_of_mail_for_mailboxes_that_are_not_there(acme):
    row = refuse("bobb@alpha.test", cause="no_mailbox", reply="550 5.1.1 No such mailbox here")
    assert row.mailbox is None
    text = search("dora", q="ann@far.test")
    assert "bobb@alpha.test" in text
    page = unescape(get_text(browse("dora").get(f"/trace/{row.pk}/")))
    assert "We did not take it: there is no such mailbox" in page
    assert "add it as a mailbox or alias" in page
    assert NO_TRACE in search("bob", q="ann@far.test")
    assert browse("bob").get(f"/trace/{row.pk}/").status_code == 404


def test_what_reached_no_provider_is_not_shown_to_anyone_here(acme):
    Unrouted.objects.create(
        trace_id="01JAAAAAAAAAAAAAAAAA", at=timezone.now(), sender="ann@far.test", recipient="zoe@no.test",
        client_ip="192.0.2.25", reply="550 5.7.1 no",
    )  # fmt: skip
    for query in ("ann@far.test", "zoe@no.test", "01JAAAAAAAAAAAAAAAAA", "192.0.2.25"):
        assert NO_TRACE in search("alice", q=query)


# What is told of others (O23)


def test_nobody_learns_of_blind_copies(acme):
    """O23: the other recipients of a transaction, and what was said about them, are nobody else's business."""
    rows = share()
    page = get_text(browse("bob").get(f"/trace/{rows['bob'].pk}/"))
    assert "RCPT TO:&lt;Bob@alpha.test&gt;" in page
    assert "MAIL FROM:&lt;ann@far.test&gt;" in page
    assert "250 2.0.0 Ok: kept" in page
    assert "event of bob@alpha.test" in page
    for other in ("carol", "bea", "nobody", "Also for"):
        assert other not in page
    found = search("bob", q="ann@far.test")
    assert "S-SHARED" in found
    assert "carol" not in found
    assert "bea@" not in found


def test_a_domain_admin_learns_of_the_domain_only(acme):
    """O23."""
    page = get_text(browse("dora").get(f"/trace/{share()['bob'].pk}/"))
    assert "RCPT TO:&lt;carol@alpha.test&gt;" in page
    assert "Also for" in page
    assert "event of carol" not in page  # it is on Carol's own page
    assert "bea" not in page


def test_a_provider_admin_sees_all_of_it(acme):
    page = get_text(browse("alice").get(f"/trace/{share()['bob'].pk}/"))
    for text in ("carol@alpha.test", "bea@beta.test", "nobody@alpha.test", "but not carol@alpha.test"):
        assert text in page


def test_the_sender_is_told_even_where_the_sender_is_a_hidden_recipient(acme):
    message = keep("bob@alpha.test", "carol@alpha.test", sender="carol@alpha.test")
    Message.objects.update(replies=[["MAIL FROM:<carol@alpha.test>", "250 2.1.0 Sender ok"]])
    row = message.recipients.get(address="bob@alpha.test")
    assert "MAIL FROM:&lt;carol@alpha.test&gt;" in get_text(browse("bob").get(f"/trace/{row.pk}/"))


@pytest.mark.parametrize(
    "replies",
    [
        {},
        "x",
        [1],
        [["a"]],
        [["a", "b", "c"]],
        [["a", "b", None]],
        [["a", "b", 1, 2]],
        [["a", "b", True]],
        [[1, None]],
        [],
    ],
)
def test_replies_of_another_form_break_no_page(acme, replies):
    row = keep("bob@alpha.test").recipients.get()
    Message.objects.update(replies=replies)
    assert browse("bob").get(f"/trace/{row.pk}/").status_code == 200
