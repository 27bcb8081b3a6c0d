"""A customer's server that is away, slow or hangs up decides nothing, and is taken up again when it is back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from quarantine.delivery import callout
from quarantine.gateway import recipients
from tests.quarantine.gateways import RunningGateway, run_gateway, run_name_server
from tests.quarantine.policies import (
    NOT_VERIFIED,
    RECIPIENT_OK,
    UNKNOWN_MAILBOX,
    answer_rcpt,
    ask,
    list_asked,
    list_rows,
)
from tests.quarantine.test_gateway_mail import CLEAN
from tests.running_courier import wait_until
from tests.smtp_sink import CLOSE, Reply

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_name_server(), run_gateway() as running:
        yield running


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        ("BANNER", "554 5.7.1 go away"),
        ("BANNER", "421 4.3.2 busy"),
        ("BANNER", CLOSE),
        ("BANNER", "hello"),
        ("BANNER", Reply("220 slow", after=2)),
        ("EHLO", CLOSE),
        ("EHLO", "421 4.3.2 busy"),
        ("MAIL", "550 5.1.8 no null senders"),
        ("MAIL", "451 4.3.0 later"),
        ("MAIL", CLOSE),
        ("MAIL", Reply("250 slow", after=2)),
        ("RCPT", Reply("250 slow", after=2)),
        ("RCPT", Reply("550 5.1.1 slow", after=2)),
    ],
)
def test_a_server_that_does_not_answer_decides_nothing(asking, server, step, answer):
    server.told.pop(step, None)
    server.on(step, answer)
    assert ask(asking, "new@alpha.test", "bob@alpha.test") == [NOT_VERIFIED, RECIPIENT_OK]
    server.off(step)
    server.on("RCPT", answer_rcpt)
    wait_until(lambda: ask(asking, "new@alpha.test") == [RECIPIENT_OK])  # it came back, and so do we
    assert ask(asking, "nobody@alpha.test") == [UNKNOWN_MAILBOX]


def test_a_server_that_is_down_puts_off_and_is_taken_up_again_when_it_is_back(asking, server):
    server.stop()
    client = asking.open()
    assert client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<new@alpha.test>", "DATA") == [
        "250 2.1.0 Sender ok",
        NOT_VERIFIED,
        "451 4.3.0 Temporary failure, please try again later",
    ]
    server.start()
    wait_until(lambda: client.ask("RCPT TO:<new@alpha.test>") == RECIPIENT_OK)
    client.ask("DATA")
    assert client.send_data(CLEAN).startswith("250 ")
    assert list_rows()[-1] == ("new@alpha.test", "new@alpha.test")


def test_others_of_the_same_message_are_taken(asking, server):
    server.stop()
    client = asking.open()
    client.ask("MAIL FROM:<ann@sender.test>")
    replies = client.talk("RCPT TO:<new@alpha.test>", "RCPT TO:<bob@alpha.test>", "RCPT TO:<gus@gamma.test>", "DATA")
    assert replies == [NOT_VERIFIED, RECIPIENT_OK, RECIPIENT_OK, "354 End data with <CR><LF>.<CR><LF>"]
    assert client.send_data(CLEAN).startswith("250 ")
    assert ("bob@alpha.test", "bob@alpha.test") in list_rows()
    server.start()


def test_who_was_good_stays_good_while_the_server_is_away(asking, server, monkeypatch):
    ask(asking, "new@alpha.test", "nobody@alpha.test")
    monkeypatch.setattr(recipients, "YES_SECONDS", 0.0)
    monkeypatch.setattr(recipients, "NO_SECONDS", 0.0)
    server.stop()
    assert ask(asking, "new@alpha.test", "nobody@alpha.test") == [RECIPIENT_OK, NOT_VERIFIED]
    monkeypatch.setattr(recipients, "STALE_SECONDS", 0.0)
    assert ask(asking, "new@alpha.test") == [NOT_VERIFIED]
    server.start()


def test_a_server_that_is_down_is_left_in_peace(asking, server, monkeypatch):
    monkeypatch.setattr(callout, "FIRST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(callout, "LONGEST_PAUSE_SECONDS", 60.0)
    server.on("BANNER", CLOSE)
    assert ask(asking, *(f"guess{number}@alpha.test" for number in range(40))) == [NOT_VERIFIED] * 40
    assert server.connections == 1


TARPIT = Reply("250 2.1.5 at last", after=2)


@pytest.fixture
def unforgiving(asking, monkeypatch) -> RunningGateway:
    """A server that counts as down is asked nothing more for as long as a test lasts."""
    monkeypatch.setattr(callout, "FIRST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(callout, "LONGEST_PAUSE_SECONDS", 60.0)
    return asking


def test_a_question_that_gets_no_answer_in_time_is_its_own_askers_alone(unforgiving, server):
    """What the server says of it too late is not taken for an answer to the next question."""
    server.off("RCPT")
    server.on("RCPT", lambda line: TARPIT if "slow" in line else answer_rcpt(line))
    for number in range(callout.LOST_IN_A_ROW + 1):
        names = ("new", f"slow{number}", f"guess{number}", "newer")
        assert ask(unforgiving, *(f"{name}@alpha.test" for name in names)) == [
            RECIPIENT_OK,
            NOT_VERIFIED,
            UNKNOWN_MAILBOX,
            RECIPIENT_OK,
        ]


def test_a_question_that_the_server_hangs_up_on_is_its_own_askers_alone(unforgiving, server):
    server.off("RCPT")
    server.on("RCPT", lambda line: CLOSE if "odd" in line else answer_rcpt(line))
    replies = ask(unforgiving, "odd@alpha.test", "new@alpha.test", "odder@alpha.test", "nobody@alpha.test")
    assert replies == [NOT_VERIFIED, RECIPIENT_OK, NOT_VERIFIED, UNKNOWN_MAILBOX]


def test_a_server_that_answers_no_question_of_several_in_a_row_is_down(unforgiving, server):
    server.off("RCPT")
    server.on("RCPT", TARPIT)
    guesses = [f"guess{number}@alpha.test" for number in range(callout.LOST_IN_A_ROW + 3)]
    assert ask(unforgiving, *guesses) == [NOT_VERIFIED] * len(guesses)
    assert list_asked(server) == guesses[: callout.LOST_IN_A_ROW]


def test_a_server_that_is_slow_once_it_has_answered_is_not_down(unforgiving, server, monkeypatch):
    monkeypatch.setattr(callout, "CONNECTIONS", 1)
    server.on("RSET", Reply("250 2.0.0 at last", after=30))
    assert ask(unforgiving, "new@alpha.test") == [RECIPIENT_OK]
    wait_until(lambda: ask(unforgiving, "newer@alpha.test") == [RECIPIENT_OK])
    assert server.connections > 1  # none that still owes a reply is used again


def test_who_waits_behind_slow_questions_is_answered_in_time_and_asked_for_no_more(unforgiving, server, monkeypatch):
    monkeypatch.setattr(callout, "CONNECTIONS", 1)
    unforgiving.services.recipients._callout.seconds = 2.0
    server.off("RCPT")
    server.on("RCPT", Reply("250 2.1.5 at last", after=10))
    with ThreadPoolExecutor(8) as threads:
        names = [f"slow{number}@alpha.test" for number in range(8)]
        assert list(threads.map(lambda name: ask(unforgiving, name), names)) == [[NOT_VERIFIED]] * 8
    server.off("RCPT")
    assert len(list_asked(server)) < callout.LOST_IN_A_ROW
    wait_until(lambda: ask(unforgiving, "new@alpha.test") == [RECIPIENT_OK])


def test_a_connection_that_the_server_closed_meanwhile_is_made_anew(asking, server):
    ask(asking, "new@alpha.test")
    server.on("MAIL", CLOSE, times=1)
    assert ask(asking, "newer@alpha.test") == [RECIPIENT_OK]
    assert server.connections == 2
