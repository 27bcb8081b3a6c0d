"""The customer's server is asked which mailboxes there are: what its answers mean, and what is remembered of them."""

from __future__ import annotations

import pytest
from django.db.models import Sum
from django.test import override_settings
from django_tenants.utils import schema_context

from portal.settings.environment import Address
from portal.tenants.models import MailDomain
from quarantine.delivery import callout
from quarantine.delivery.callout import Word
from quarantine.gateway import recipients
from quarantine.models import Event, Recipient
from quarantine.platform.models import HourlyCount
from tests.quarantine.gateways import run_gateway, run_name_server
from tests.quarantine.policies import (
    NOT_SANE,
    NOT_VERIFIED,
    RECIPIENT_OK,
    UNKNOWN_MAILBOX,
    answer_rcpt,
    ask,
    choose,
    list_asked,
    list_mailboxes,
    list_rows,
)
from tests.quarantine.test_gateway_mail import CLEAN, WITHOUT_PTR
from tests.running_courier import wait_until
from tests.smtp_sink import CLOSE

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_name_server(), run_gateway() as running:
        yield running


def test_the_server_is_asked_for_whom_the_directory_does_not_know(asking, server):
    assert ask(asking, "bob@alpha.test", "New@alpha.test", "nobody@alpha.test", "postmaster@alpha.test") == [
        RECIPIENT_OK,
        RECIPIENT_OK,
        UNKNOWN_MAILBOX,
        RECIPIENT_OK,
    ]
    assert list_asked(server) == ["new@alpha.test", "nobody@alpha.test"]
    assert {line for line in server.commands if line.startswith("MAIL")} == {"MAIL FROM:<>"}
    assert server.connections == 1
    assert ask(asking, *NOT_SANE) == [UNKNOWN_MAILBOX] * len(NOT_SANE)
    assert len(list_asked(server)) == 2


def test_answers_are_remembered(asking, server):
    for _ in range(3):
        assert ask(asking, "new@alpha.test", "nobody@alpha.test") == [RECIPIENT_OK, UNKNOWN_MAILBOX]
    assert list_asked(server) == ["new@alpha.test", "nobody@alpha.test"]
    assert asking.services.recipients.counts == {
        "asked_yes": 1, "asked_no": 1, "remembered_yes": 2, "remembered_no": 2
    }  # fmt: skip


def test_answers_are_asked_for_anew_after_their_time(asking, server, monkeypatch):
    ask(asking, "new@alpha.test", "nobody@alpha.test")
    monkeypatch.setattr(recipients, "YES_SECONDS", 0.0)
    monkeypatch.setattr(recipients, "NO_SECONDS", 0.0)
    ask(asking, "new@alpha.test", "nobody@alpha.test")
    assert list_asked(server) == ["new@alpha.test", "nobody@alpha.test"] * 2


def test_the_refusal_is_on_record_in_the_servers_words(asking, server):
    ask(asking, "nobody@alpha.test")
    with schema_context("sp_acme"):
        [event] = Event.objects.all()
        [row] = Recipient.objects.select_related("message")
    assert (row.state, row.cause) == ("refused", "no_mailbox")
    assert row.reply == f"{UNKNOWN_MAILBOX} (trace {row.message.trace_id})"
    assert "The mail server has no such mailbox: 550 5.1.1 User unknown" in event.text


def test_mail_for_a_verified_address_makes_its_mailbox(asking, server):
    assert asking.open().mail("ann@sender.test", "new@alpha.test", data=CLEAN).startswith("250 ")
    assert list_mailboxes() == ["new@alpha.test"]
    assert list_rows() == [("new@alpha.test", "new@alpha.test")]


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("250 2.1.5 ok", "yes"),
        ("251 2.1.5 will forward", "yes"),
        ("550 5.1.1 User unknown", "no"),
        ("550 5.1.10 RESOLVER.ADR.RecipientNotFound", "no"),
        ("550 5.4.1 Recipient address rejected: Access denied", "no"),
        ("550 5.2.1 The account is disabled", "no"),
        ("550 no such user", "no"),
        ("553 sorry, no mailbox here by that name (#5.7.1)", "no"),
        ("552 5.2.2 Mailbox full", "unclear"),
        ("550 5.2.2 Mailbox full", "unclear"),
        ("552 quota", "unclear"),
        ("450 4.2.0 Greylisted", "unclear"),
        ("421 4.3.2 shutting down", "unclear"),
        ("451 4.3.0 no", "unclear"),
        ("299", "yes"),
        ("999 what", "unclear"),
        ("354 go on", "unclear"),
        ("hello", "unclear"),
        (CLOSE, "unclear"),
    ],
)
def test_what_replies_to_rcpt_mean(asking, server, reply, word):
    server.off("RCPT")
    server.on("RCPT", lambda line: reply if "new@" in line else answer_rcpt(line))
    expected = {"yes": RECIPIENT_OK, "no": UNKNOWN_MAILBOX, "unclear": NOT_VERIFIED}[word]
    assert ask(asking, "new@alpha.test") == [expected]


@pytest.mark.parametrize("reply", ["554 5.7.1 Client host blocked", "550 5.7.1 Unable to relay", "530 5.7.0 TLS first"])
def test_a_refusal_of_ourselves_is_no_refusal_of_the_mailbox(asking, server, reply):
    """The server refuses everything, its postmaster too: then it is we who are refused."""
    server.off("RCPT")
    server.on("RCPT", reply)
    assert ask(asking, "new@alpha.test") == [NOT_VERIFIED]
    server.off("RCPT")
    server.on("RCPT", lambda line: None if "postmaster@" in line else reply)
    assert ask(asking, "new@alpha.test") == [UNKNOWN_MAILBOX]


def test_a_server_that_takes_everything_is_asked_no_more(asking, server):
    server.off("RCPT")
    assert ask(asking, *(f"x{number}@alpha.test" for number in range(10))) == [RECIPIENT_OK] * 10
    assert list_asked(server) == ["x0@alpha.test"]
    assert asking.services.recipients.counts == {"asked_yes": 1, "takes_all": 9}
    server.stop()
    assert ask(asking, "y@alpha.test") == [RECIPIENT_OK]
    server.start()


def test_broken_tls_is_done_without(asking, server):
    server.extensions = (*server.extensions, "STARTTLS")
    server.on("STARTTLS", "454 4.7.0 not now")
    assert ask(asking, "new@alpha.test") == [RECIPIENT_OK]


def test_we_are_not_asked_ourselves(asking, server):
    with override_settings(SMTP_ADDRESS=Address("127.0.0.1", asking.port)):
        choose("callout", asking, server_port=asking.port)
        assert ask(asking, "new@alpha.test") == [NOT_VERIFIED]


def test_an_address_beyond_ascii_is_asked_for_as_such(asking, server):
    client = asking.open()
    client.ask("MAIL FROM:<ann@sender.test> SMTPUTF8")
    assert client.ask("RCPT TO:<jörg@alpha.test>") == UNKNOWN_MAILBOX
    assert "MAIL FROM:<> SMTPUTF8" in server.commands


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(recipients, "MAX_GOOD", 3)
    monkeypatch.setattr(recipients, "MAX_OTHERS", 2)
    memory, no, yes = recipients.AnswerCache(), callout.Answer(Word.NO, ""), callout.Answer(Word.YES, "")
    keys = [("mx.test", 25, f"{number}@alpha.test") for number in range(20)]
    for key in keys[:3]:
        memory.keep(key, yes)
    for key in keys[3:]:
        memory.keep(key, no)
    assert [key for key in keys if memory.recall(key) == no] == keys[-2:]
    assert [key for key in keys if memory.was_good(key)] == keys[:3]
    memory.keep(keys[-1], yes)
    assert [key for key in keys if memory.was_good(key)] == [*keys[1:3], keys[-1]]


def list_counts() -> list[tuple[str, str, int]]:
    """By kind and cause, of alpha.test in all hours and processes."""
    alpha = MailDomain.objects.get(name="alpha.test").pk
    rows = HourlyCount.objects.filter(schema="sp_acme", domain_id=alpha).values_list("kind", "cause")
    return sorted((kind, cause, number) for kind, cause, number in rows.annotate(number=Sum("count")))


def test_who_was_not_taken_is_on_record_and_counted(asking, server):
    ask(asking, "nobody@alpha.test", "nobody@alpha.test")
    server.off("RCPT")
    server.on("RCPT", "451 4.3.0 <directory> is away")
    ask(asking, "new@alpha.test")
    wait_until(lambda: list_counts() == [("deferred", "unverified", 1), ("refused", "no_mailbox", 2)])
    with schema_context("sp_acme"):
        row = Recipient.objects.select_related("message").get(address="new@alpha.test")
        event = Event.objects.get(recipient=row)
    told = f"{NOT_VERIFIED} (trace {row.message.trace_id})"
    assert (row.state, row.cause, row.reply) == ("unfinished", "unverified", told)
    assert event.text == f"{told} [The mail server gave no clear answer: 451 4.3.0 <directory> is away]"


def test_no_server_is_asked_for_a_client_that_is_refused_anyway(asking, server):
    client = asking.open(WITHOUT_PTR)
    client.ask("MAIL FROM:<ann@sender.test>")
    replies = client.talk("RCPT TO:<new@alpha.test>", "RCPT TO:<nobody@alpha.test>")
    assert [reply[:9] for reply in replies] == ["553 5.3.0"] * 2  # no telling apart, either
    assert server.connections == 0
    assert list_mailboxes() == []
