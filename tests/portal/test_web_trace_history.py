"""What the history of a mail tells, in words that people understand."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape

import pytest

from portal.tenants.models import MailDomain
from quarantine.models import Event, Message, Recipient, State
from quarantine.outcomes import name_outcome
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import keep, send_off
from tests.portal.browsing import browse, get_text
from tests.portal.traces import find, refuse, search, split

pytestmark = pytest.mark.django_db


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
