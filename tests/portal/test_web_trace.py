"""Finding what became of a mail in the portal: who finds what, what is told of others, and the counts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, SenderRule
from quarantine import tracing
from quarantine.activity import Count
from quarantine.causes import Cause
from quarantine.models import Event, Message, Recipient, State
from quarantine.outcomes import name_outcome
from quarantine.platform.models import DeliveryJob, HourlyCount, Unrouted
from tests.kept_mail import add_recipient, keep, send_off
from tests.portal.browsing import browse, get_text

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
NO_TRACE = "No trace of it"


def search(who: str, at: str = "acme", **query: str) -> str:
    return unescape(get_text(browse(who, at=at).get("/trace/", query)))


def find(who: str, **query: str) -> set[str]:
    """The subjects of what was found."""
    return set(re.findall(r"\bS-[A-Z]+\b", search(who, **query)))


def refuse(address: str, *, cause: str = "reverse_dns", reply: str = "553 5.3.0 no PTR", **fields) -> Recipient:
    """A recipient refused at RCPT, as the gateway writes it."""
    message = keep(state=State.REFUSED, subject="", sender="ann@far.test", **fields)
    message.content.delete()
    Message.objects.filter(pk=message.pk).update(
        header_from="", size=0, sha256=None, ptr_status="none", ptr_milliseconds=23, tls="TLSv1.3",
        replies=[["MAIL FROM:<ann@far.test>", "250 2.1.0 Sender ok"], [f"RCPT TO:<{address}>", reply]],
    )  # fmt: skip
    row = add_recipient(
        message, address, state=State.REFUSED, action="refuse", category="policy", cause=cause, reply=reply
    )
    Event.objects.create(message=message, recipient=row, kind="refused", text=f"{reply} [{Cause(cause).label}]")
    return row


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


# One transaction, one recipient refused and another accepted


def split(*, seconds: bool = False) -> tuple[Recipient, Recipient]:
    """Mail that was taken for Carol, and of which Bob was refused at RCPT. Returns Bob's row and Carol's."""
    message = keep("carol@alpha.test", subject="S-SECRET", sender="ann@far.test")
    Message.objects.filter(pk=message.pk).update(
        message_id="<secret@far.test>", header_from="Secret Name <ann@else.test>",
        evidence={"content": {"from_address": "ann@else.test"}},
        replies=[
            [*pair, number + 0.25] if seconds else pair
            for number, pair in enumerate([
                ["MAIL FROM:<ann@far.test>", "250 2.1.0 Sender ok"],
                ["RCPT TO:<bob@alpha.test>", "553 5.3.0 no PTR"],
                ["RCPT TO:<carol@alpha.test>", "250 2.1.5 Recipient ok"],
                ["DATA", "354 End data"],
                ["end of data", "250 2.0.0 Ok: kept as X"],
            ])
        ],
    )  # fmt: skip
    verdict = {"state": State.REFUSED, "action": "refuse", "category": "policy", "score": 0}
    row = add_recipient(message, "bob@alpha.test", cause="reverse_dns", reply="553 5.3.0 no PTR", **verdict)
    Event.objects.create(message=message, recipient=row, kind="refused", text="553 5.3.0 no PTR")
    Event.objects.create(message=message, kind="sent_again", text="answered 250")
    return row, message.recipients.get(address="carol@alpha.test")


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


# What a history tells


def test_what_was_said_is_told_with_its_time_where_that_is_on_record(acme):
    row, _ = split(seconds=True)
    page = get_text(browse("bob").get(f"/trace/{row.pk}/"))
    assert "after 0.2 s" in page
    assert "after 1.2 s" in page
    row.message.replies = [["DATA", "354 End data", 121.0], ["end of data", "250 ok", 120.0]]
    row.message.save()
    page = get_text(browse("alice").get(f"/trace/{row.pk}/"))
    assert "after 2.0 min" in page
    assert "after 120.0 s" in page
    row, _ = split()
    assert not re.search(r"after \d+\.\d", get_text(browse("bob").get(f"/trace/{row.pk}/")))


@pytest.mark.parametrize(
    ("reply", "label"), [("250 2.1.5 Recipient ok", "Answer to RCPT"), ("421 4.4.2 Timeout", "Last answer")]
)
def test_an_answer_is_called_what_it_is(acme, reply, label):
    row = keep("bob@alpha.test", state=State.UNFINISHED, cause="timeout", reply=reply).recipients.get()
    Message.objects.update(replies=[["RCPT TO:<bob@alpha.test>", "250 2.1.5 Recipient ok"], ["DATA", "354 End data"]])
    assert f"<dt>{label}</dt>" in get_text(browse("bob").get(f"/trace/{row.pk}/"))


@pytest.mark.parametrize("state", ["deferred", "delivering", "releasing"])
def test_of_waiting_mail_the_next_try_is_told(acme, state):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Asia/Kolkata")
    row = send_off("bob@alpha.test", state=state).recipients.get()
    path, at = f"/trace/{row.pk}/", datetime(2100, 11, 2, 12, tzinfo=UTC)
    assert "<dt>Next try</dt><dd>due now</dd>" in get_text(browse("bob").get(path))
    DeliveryJob.objects.update(due_at=at)
    assert ">2 Nov 2100, 17:30:00</time>" in get_text(browse("bob").get(path))
    DeliveryJob.objects.update(claimed_until=at)
    assert "<dt>Next try</dt><dd>being tried now</dd>" in get_text(browse("bob").get(path))
    Recipient.objects.update(state="delivered")
    DeliveryJob.objects.all().delete()
    assert "Next try" not in get_text(browse("bob").get(path))


def test_the_next_try_of_another_provider_is_not_taken_for_ours(acme):
    row = keep("bob@alpha.test", state="deferred").recipients.get()
    DeliveryJob.objects.create(schema="sp_globex", recipient_id=row.pk, domain_id=1)
    assert "Next try" not in get_text(browse("bob").get(f"/trace/{row.pk}/"))


def test_a_refusal_is_told_in_words_with_everything_that_was_said(acme):
    row = refuse("bob@alpha.test")
    page = unescape(get_text(browse("bob").get(f"/trace/{row.pk}/")))
    for text in (
        "<h1>Refused</h1>",
        "We did not take it: the client has no reverse DNS",
        "the sender should have got an error message",
        'href="/help/reverse-dns?ip=192.0.2.25"',
        "(known after 23 ms)",
        "TLSv1.3",
        "mail.far.test",
        "RCPT TO:<bob@alpha.test>",
        "553 5.3.0 no PTR",
        row.message.trace_id,
        "This trace goes after 90 days",
    ):
        assert text in page, text
    assert "Look at the message" not in page


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("timeout", "could not be looked up: no answer in time"),
        ("SERVFAIL", "could not be looked up: the name server failed"),
        ("forward look-up: REFUSED", "could not be looked up: the name server refused"),
        ("not known yet", "could not be looked up: the transaction ended before there was an answer"),
        (
            "NXDOMAIN; the rule is off while look-ups fail",
            "could not be looked up: a name server's “there is none” did not count; the rule was off then, because too "
            "many look-ups failed",
        ),
        ("", "could not be looked up"),
    ],
)
def test_the_history_says_why_reverse_dns_is_unknown(acme, detail, told):
    row = refuse("bob@alpha.test", cause="disconnected")
    ptr = {"status": "unknown", "detail": detail}
    Message.objects.filter(pk=row.message_id).update(ptr_status="unknown", evidence={"ptr": ptr})
    text = unescape(get_text(browse("bob").get(f"/trace/{row.pk}/")))
    assert re.search(rf"<dd>{re.escape(told)} <span[^>]*>\(known after 23 ms\)", text)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"state": "unfinished", "cause": "overload", "reply": "451 4.3.2 busy"}, "to try again later: too much"),
        ({"state": "unfinished", "cause": "disconnected", "reply": "250 ok"}, "did not finish: the client hung up"),
        ({"state": "unfinished", "cause": "unheard_of", "reply": ""}, "did not finish: unheard of"),
        ({"state": "refused", "cause": "", "reply": "550 no"}, "the reason is in the answer below"),
        ({"state": "delivered", "reply": "250 ok"}, "mail server took it. If it is not in the mailbox"),
        ({"state": "deferred", "reply": "451 later"}, "We try again for five days"),
        ({"state": "held", "reply": "550 no"}, "can be tried again"),
        ({"state": "quarantined"}, "can be released"),
    ],
)  # fmt: skip
def test_every_outcome_is_explained(acme, fields, told):
    row = keep("bob@alpha.test", **fields).recipients.get()
    Event.objects.create(message=row.message, recipient=row, kind="deferred", text="451 later")
    page = unescape(get_text(browse("bob").get(f"/trace/{row.pk}/")))
    assert told in page
    ours = fields["state"] == "unfinished"
    assert ("Told to try again" in page) == ours
    assert ("did not take it yet: we try again" in page) != ours


@pytest.mark.parametrize("state", State.values)
def test_no_state_is_without_words(acme, state):
    row = keep("bob@alpha.test", state=state).recipients.get()
    assert browse("bob").get(f"/trace/{row.pk}/").status_code == 200
    assert find("bob", q=row.message.trace_id) == set()
    assert row.message.trace_id in search("bob", q=row.message.trace_id)


# The search page


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


# Activity


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("ok", "a name that leads back"),
        ("none", "there is no name"),
        ("stale", "no new answer: an older one was used"),
        ("busy", "too many look-ups at once"),
        ("unconfirmed_absence", "a name server's “there is none” was not believed"),
        ("too_many_aliases", "too many aliases"),
    ],
)
def test_look_ups_that_failed_are_named_in_words(cause, words):
    assert Count(NOON, "", "dns", cause, 1).label == words


def count(hour: datetime, *, kind: str = "refused", cause: str = "reverse_dns", domain: str = "", number: int = 1,
          schema: str = "sp_acme", instance: str = "gw-1") -> None:  # fmt: skip
    domain_id = MailDomain.objects.get(name=domain).pk if domain else 0
    HourlyCount.objects.create(
        hour=hour, schema=schema, domain_id=domain_id, kind=kind, cause=cause, instance=instance, count=number
    )


def read_counts(who: str, path: str = "/activity/", at: str = "acme") -> dict[str, int]:
    """The sums of the table, by what they count."""
    text = unescape(get_text(browse(who, at=at).get(path)))
    found = re.search(r'<tr role="row" class="sum">.*?</tr>', text, re.DOTALL)
    cells = re.findall(r'<span class="label"[^>]*>([^<]+)</span>(?:<a [^>]*>)?(\d+)', found.group()) if found else []
    return {label: int(number) for label, number in cells}


@pytest.fixture
def counted(db):
    """Counts of two instances, two domains, another provider, none, and of look-ups, in the hour that runs."""
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for instance in ("gw-1", "gw-2"):
        count(hour, domain="alpha.test", number=2, instance=instance)
        count(hour, domain="beta.test", number=10, instance=instance)
        count(hour, schema="sp_globex", domain="gamma.test", number=100, instance=instance)
        count(hour, schema="", cause="relay_denied", number=1000, instance=instance)
        count(hour, schema="", kind="dns", cause="servfail", number=5, instance=instance)
        count(hour, schema="", kind="dns", cause="ok", number=7000, instance=instance)
        count(hour, domain="alpha.test", kind="accepted", cause="", number=3, instance=instance)
        count(hour, domain="alpha.test", kind="held", cause="", number=4, instance=instance)
        count(hour, domain="alpha.test", kind="deferred", cause="overload", number=6, instance=instance)
        count(hour, domain="alpha.test", kind="unfinished", cause="timeout", number=8, instance=instance)
        count(hour, domain="alpha.test", kind="repeated", cause="sent_again", number=9, instance=instance)
    return hour


TOO_FEW = "Too few look-ups to tell (under 40)"
AGAIN = "Sent again: it had been taken a moment before"
OWN = {
    "Taken, to be delivered": 6,
    "Held in quarantine": 8,
    "Told to try again: too much at the moment": 12,
    "Not finished: the client was too slow": 16,
    AGAIN: 18,
}
NOTHING = {"Taken, to be delivered": 0, "Held in quarantine": 0}
NO_PTR = "Refused: the client has no reverse DNS"


@pytest.mark.parametrize(
    ("who", "at", "seen"),
    [
        ("dora", "acme", OWN | {NO_PTR: 4}),
        ("alice", "acme", OWN | {NO_PTR: 24}),
        ("mallory", "globex", NOTHING | {NO_PTR: 200}),
    ],
)
def test_everybody_counts_their_own_over_all_instances(counted, who, at, seen):
    assert read_counts(who, at=at) == seen
    assert read_counts(who, "/activity/?days=7", at=at) == seen


def test_older_hours_are_in_their_day_and_week(acme):
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    count(now - timedelta(hours=25), domain="alpha.test", number=3)
    assert "Nothing was counted" in get_text(browse("dora").get("/activity/"))
    assert read_counts("dora", "/activity/?days=7") == NOTHING | {NO_PTR: 3}
    day = (now - timedelta(hours=25)).date().isoformat()
    assert read_counts("dora", f"/activity/?day={day}") == NOTHING | {NO_PTR: 3}
    assert f'href="?day={day}"' in get_text(browse("dora").get("/activity/?days=7"))


@pytest.mark.parametrize("query", ["day=x", "day=2026-02-30", "days=9", "day=", "day=0001-01-01", "day=9999-12-31"])
def test_a_day_that_is_none_is_the_last_24_hours_or_nothing(acme, query):
    assert browse("dora").get(f"/activity/?{query}").status_code == 200


def test_a_number_leads_to_its_mail(acme):
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    count(hour, domain="alpha.test")
    for minutes, state, cause in (
        (1, "refused", "reverse_dns"),
        (2, "refused", "loop"),
        (61, "refused", "reverse_dns"),
    ):
        sender = "S-WANTED@far.test" if minutes == 1 else "S-OTHER@far.test"
        at = hour + timedelta(minutes=minutes if minutes < 60 else -1)
        keep("bob@alpha.test", sender=sender, received_at=at, state=state, cause=cause)
    client = browse("dora")
    text = unescape(get_text(client.get("/activity/")))
    together, link = re.findall(r'href="(/trace/\?[^"]+)"', text)
    assert set(re.findall(r"\bS-[A-Z]+\b", get_text(client.get(link)))) == {"S-WANTED"}
    count(hour, kind="repeated", cause="sent_again", domain="alpha.test")
    assert len(re.findall(r'href="/trace/\?', get_text(client.get("/activity/")))) == 2  # it is no mail of its own
    assert len(re.findall(r"\bS-WANTED\b|\bS-OTHER\b", get_text(client.get(together)))) == 2


def test_days_begin_at_midnight_where_the_viewer_is(acme):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Asia/Kolkata")  # UTC+5:30: in the hour from 18:00
    count(datetime(2026, 11, 1, 17, tzinfo=UTC), domain="alpha.test", number=1)
    count(datetime(2026, 11, 1, 18, tzinfo=UTC), domain="alpha.test", number=10)
    count(datetime(2026, 11, 2, 17, tzinfo=UTC), domain="alpha.test", number=100)
    count(datetime(2026, 11, 2, 18, tzinfo=UTC), domain="alpha.test", number=1000)
    assert read_counts("dora", "/activity/?day=2026-11-02")[NO_PTR] == 110
    assert urlencode({"since": "2026-11-02T17:00:00+00:00"}) in get_text(
        browse("dora").get("/activity/?day=2026-11-02")
    )


@pytest.mark.parametrize(("day", "hours"), [("2026-10-25", 25), ("2026-03-29", 23), ("2026-07-01", 24)])
def test_a_day_has_the_hours_that_it_has(acme, day, hours):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Europe/Berlin")
    count(datetime.fromisoformat(f"{day}T12:00:00+00:00"), domain="alpha.test")
    text = get_text(browse("dora").get(f"/activity/?day={day}"))
    assert len(re.findall(r'<tr role="row"(?: class="quiet")?><th scope="row"', text)) == hours


def test_what_is_held_is_counted_by_itself_and_leads_to_what_was_held(acme):
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    count(hour, domain="alpha.test", kind="accepted", cause="")
    count(hour, domain="alpha.test", kind="held", cause="", number=2)
    for subject, state, action in (
        ("S-CLEAN", "delivered", "deliver"),
        ("S-HELD", "quarantined", "quarantine"),
        ("S-RELEASED", "released", "quarantine"),
    ):
        keep("bob@alpha.test", subject=subject, received_at=hour, state=state, action=action)
    client = browse("dora")
    text = unescape(get_text(client.get("/activity/")))
    links = re.findall(r'href="(/trace/\?[^"]+)"', text)  # of the sums, then of the hour
    found = [set(re.findall(r"\bS-[A-Z]+\b", get_text(client.get(link)))) for link in links]
    assert found == [{"S-CLEAN"}, {"S-HELD", "S-RELEASED"}] * 2


@pytest.mark.parametrize("state", [*State.values, "put_off"])
def test_a_state_has_one_name_on_every_page(acme, state):
    """In the list that was found, over its history, and on the page of the message."""
    fields = {"state": "unfinished", "reply": "451 4.3.0 later"} if state == "put_off" else {"state": state}
    row = keep("bob@alpha.test", **fields).recipients.get()
    client, name = browse("bob"), name_outcome(row)
    assert f">{name}</span>" in unescape(get_text(client.get(f"/trace/?q={row.message.trace_id}")))
    history = unescape(get_text(client.get(f"/trace/{row.pk}/")))
    assert f"<h1>{name}</h1>" in history
    assert f">{name}</span>" in history
    assert f">{name}</span>" in unescape(get_text(client.get(f"/m/{row.pk}/")))


def test_the_zone_of_times_is_said_where_they_are_read_and_typed(acme):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Asia/Kolkata")
    keep("bob@alpha.test", sender="ann@far.test")
    count(timezone.now().replace(minute=0, second=0, microsecond=0), domain="alpha.test")
    text = search("dora", q="ann@far.test")
    assert "Times are in Asia/Kolkata." in text.partition("<footer")[0]
    assert text.count("In the time zone Asia/Kolkata.") == 2  # since, before
    client = browse("dora")
    for path, unit in (("/activity/", "Hours"), ("/activity/?days=7", "Days")):
        page = get_text(client.get(path))
        assert f"{unit} are in the time zone Asia/Kolkata." in page
        assert "Hours of another day (Asia/Kolkata)" in page


def read_failed(who: str, path: str, at: str = "acme") -> list[list[str]]:
    """The table of mail whose server's name could not be looked up, line by line, as it is read."""
    text = unescape(get_text(browse(who, at=at).get(path))).partition("name could not be looked up</h2>")[2]
    table = text.partition("Failed look-ups of reverse DNS")[0].partition("<tbody")[2]
    lines = re.findall(r"<tr\b.*?</tr>", table, re.DOTALL)
    return [re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<span class=.label.*?</span>", "", line)).split() for line in lines]


def test_mail_whose_servers_name_could_not_be_looked_up_is_counted_in_the_viewers_scope(acme):
    """However few there are: by cause and hour, over all instances."""
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    for instance in ("gw-1", "gw-2"):
        for hours, domain, cause, number in (
            (0, "alpha.test", "timeout", 2), (3, "alpha.test", "servfail", 1), (3, "beta.test", "timeout", 20)
        ):  # fmt: skip
            at = now - timedelta(hours=hours)
            count(at, kind="dns_failed", cause=cause, domain=domain, number=number, instance=instance)
    count(now, domain="alpha.test", kind="accepted", cause="", number=5)
    count(now, schema="sp_globex", kind="dns_failed", cause="busy", domain="gamma.test", number=700)
    now, then = (f"{hour:%a} {hour:%H}:00".split() for hour in (now, now - timedelta(hours=3)))
    assert read_failed("dora", "/activity/") == [["Together", "4", "2"], [*now, "4", "0"], [*then, "0", "2"]]
    assert read_failed("alice", "/activity/") == [["Together", "44", "2"], [*now, "4", "0"], [*then, "40", "2"]]
    assert read_failed("mallory", "/activity/", "globex") == [["Together", "700"], [*now, "700"]]
    assert read_failed("dora", "/activity/?days=7")[0] == ["Together", "4", "2"]
    text = get_text(browse("dora").get("/activity/"))
    for label in ("No answer in time", "The name server failed"):
        assert f'<th scope="col" class="number" role="columnheader">{label}</th>' in text
    assert "Too many look-ups at once" not in text
    assert read_counts("dora") == {"Taken, to be delivered": 5, "Held in quarantine": 0}  # nobody's mail is in it twice


def get_failures(text: str) -> list[str]:
    """What the page of counts says of look-ups, line by line."""
    part = text.partition("Failed look-ups of reverse DNS")[2].partition("By cause, with its share")[0]
    return [re.sub(r"<[^>]+>", "", line) for line in re.findall(r"<(?:li|p)\b.*?</(?:li|p)>", part)]


@pytest.mark.parametrize(
    ("servfail", "timeout", "answered", "told"),
    [
        (0, 0, 950, ""),
        (20, 19, 0, TOO_FEW),
        (30, 11, 0, "the name server failed (73 %), no answer in time (26 %)"),
        (7777, 3333, 88_890, "the name server failed (7 %), no answer in time (3 %)"),
        (66, 1234, 88_888, "no answer in time (1 %), the name server failed (under 1 %)"),
    ],
)
@pytest.mark.parametrize("who", ["dora", "alice"])
def test_providers_learn_why_look_ups_failed_and_no_number_of_them(acme, who, servfail, timeout, answered, told):
    """The numbers are of all providers together: from them and their own each could reckon the others' mail."""
    MailDomain.objects.filter(name="beta.test").delete()  # one zone for both
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    for instance in ("gw-1", "gw-2"):
        for cause, number in (("servfail", servfail), ("timeout", timeout), ("ok", answered)):
            share = number // 2 if instance == "gw-1" else number - number // 2
            if share:
                count(hour, schema="", kind="dns", cause=cause, number=share, instance=instance)
    numbers = {servfail, timeout, answered, servfail + timeout, servfail + timeout + answered}
    for path, label in (("/activity/", f"{hour:%a %H}:00"), ("/activity/?days=7", f"{hour:%a} {hour.day} {hour:%b}")):
        text = unescape(get_text(browse(who).get(path)))
        few = f"{TOO_FEW}: {label}." if told == TOO_FEW else ""
        assert get_failures(text) == [few or (f"{label}: {told}" if told else "None was counted.")]
        shown = set(re.findall(r"\d+", text.partition('<main id="main"')[2]))
        assert not {str(number) for number in numbers if number > 100} & shown  # smaller ones may be hours and days


def test_what_was_found_is_not_pushed_away_by_the_form(acme):
    """A number of Activity leads to its mail, also on a phone; the form is open where it has to be changed."""
    keep("bob@alpha.test", subject="S-BOB")
    assert '<details class="more">' in search("bob", outcome="held")
    assert "outcome “Held in quarantine”" in search("bob", outcome="held")
    assert '<details class="more" open>' in search("bob", outcome="refused")
    assert '<details class="more" open>' in search("bob", sender="ann")
