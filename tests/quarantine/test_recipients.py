"""Which recipients are taken, by the policy of their domain; and the mailbox made on the first mail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db.models import Sum
from django.test import override_settings
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.settings.environment import Address
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, MailboxAlias
from quarantine.delivery import callout
from quarantine.delivery.callout import Callout, Word
from quarantine.gateway import recipients
from quarantine.gateway.recipients import RecipientFinder
from quarantine.models import Event, Recipient, State
from quarantine.platform.models import HourlyCount
from reports.digests import send_due
from reports.models import Digest
from tests.portal.browsing import browse, get_text
from tests.quarantine.gateways import Client, RunningGateway, run_gateway, run_name_server
from tests.quarantine.test_gateway_mail import CLEAN, SPAM, WITHOUT_PTR
from tests.running_courier import wait_until
from tests.smtp_sink import CLOSE, Reply, Sink

pytestmark = pytest.mark.usefixtures("committed")

RECIPIENT_OK = "250 2.1.5 Recipient ok"
UNKNOWN_MAILBOX = "550 5.1.1 No such mailbox here"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_name_server(), run_gateway() as running:
        yield running


def choose(policy: str, *gateways: RunningGateway, domain: str = "alpha.test", **fields: object) -> None:
    """Set a domain's recipient policy, as its admin would; the gateways know it when this returns."""
    MailDomain.objects.filter(name=domain).update(recipient_policy=policy, **fields)
    for gateway in gateways:
        gateway.run(wait_for_policy(gateway, domain, policy, fields.get("server_port")))


async def wait_for_policy(gateway: RunningGateway, domain: str, policy: str, port: object) -> None:
    directory = gateway.gateway.directory
    while True:
        found = (await directory.find(f"postmaster@{domain}")).domain
        if found.recipient_policy == policy and port in (None, found.server_port):
            return
        await asyncio.sleep(0.01)  # nothing says when


def ask(gateway: RunningGateway, *recipients: str) -> list[str]:
    """The replies to RCPT, in one transaction."""
    client = gateway.open()
    client.ask("MAIL FROM:<ann@sender.test>")
    replies = client.talk(*(f"RCPT TO:<{recipient}>" for recipient in recipients))
    client.close()
    return replies


def list_mailboxes(schema: str = "sp_acme") -> list[str]:
    with schema_context(schema):
        return list(Mailbox.objects.exclude(owner__isnull=False).values_list("address", flat=True))


def list_rows() -> list[tuple[str, str | None]]:
    """Those that a message was taken for, and their mailboxes."""
    with schema_context("sp_acme"):
        taken = Recipient.objects.exclude(state__in=[State.UNFINISHED, State.REFUSED]).order_by("id")
        return list(taken.values_list("address", "mailbox__address"))


def test_known_mailboxes_alone(gateway):
    choose("known", gateway)
    assert ask(gateway, "bob@alpha.test", "new@alpha.test") == [RECIPIENT_OK, UNKNOWN_MAILBOX]


NOT_SANE = [
    '"a b"@alpha.test',
    "x%evil.test@alpha.test",
    "evil!x@alpha.test",
    "x" * 65 + "@alpha.test",
    "a..b@alpha.test",
]


def test_anyone_that_can_be_a_mailbox(gateway):
    choose("anyone", gateway)
    assert ask(gateway, "bob@alpha.test", "new@alpha.test", "x" * 64 + "@alpha.test") == [RECIPIENT_OK] * 3
    assert ask(gateway, *NOT_SANE) == [UNKNOWN_MAILBOX] * len(NOT_SANE)
    assert ask(gateway, "new@beta.test") == [UNKNOWN_MAILBOX]  # the policy is the domain's


def test_the_first_mail_makes_the_mailbox_and_rcpt_does_not(gateway):
    choose("anyone", gateway)
    assert ask(gateway, *(f"guess{number}@alpha.test" for number in range(30))) == [RECIPIENT_OK] * 30
    assert list_mailboxes() == []
    client = gateway.open()
    assert (
        client.mail("ann@sender.test", "New+News@Alpha.test", "new@alpha.test", "+x@alpha.test", data=SPAM)[:3] == "250"
    )
    assert list_mailboxes() == ["+x@alpha.test", "new@alpha.test"]
    client.mail("ann@sender.test", "new+other@alpha.test", data=CLEAN)
    assert list_mailboxes() == ["+x@alpha.test", "new@alpha.test"]
    assert list_rows() == [
        ("New+News@Alpha.test", "new@alpha.test"),
        ("new@alpha.test", "new@alpha.test"),
        ("+x@alpha.test", "+x@alpha.test"),
        ("new+other@alpha.test", "new@alpha.test"),
    ]


def test_a_new_mailbox_is_as_one_that_was_provisioned(gateway):
    choose("anyone", gateway)
    gateway.open().mail("ann@sender.test", "new@alpha.test", data=CLEAN)
    with schema_context("sp_acme"):
        made, provisioned = Mailbox.objects.get(address="new@alpha.test"), Mailbox.objects.get(address="bob@alpha.test")
    for name in ("domain_id", "wants_digest", "digest_hour", "next_digest_at"):
        assert getattr(made, name) == getattr(provisioned, name)
    assert made.owner is None


def test_refused_mail_makes_no_mailbox(gateway):
    choose("anyone", gateway)
    client = gateway.open()
    looping = b"Received: by x.test\r\n" * 101 + CLEAN
    assert client.mail("ann@sender.test", "new@alpha.test", data=looping).startswith("554 5.4.6 ")
    assert list_mailboxes() == []


def test_the_postmaster_gets_mail_and_no_mailbox(gateway):
    choose("anyone", gateway)
    client = gateway.open()
    client.mail("ann@sender.test", "postmaster@alpha.test", "postmaster+x@alpha.test", data=CLEAN)
    assert list_mailboxes() == []
    assert list_rows() == [("postmaster@alpha.test", None), ("postmaster+x@alpha.test", None)]


def test_a_new_mailbox_is_known_without_the_policy(gateway):
    choose("anyone", gateway)
    gateway.open().mail("ann@sender.test", "new@alpha.test", data=CLEAN)
    choose("known", gateway)
    assert ask(gateway, "new@alpha.test", "newer@alpha.test") == [RECIPIENT_OK, UNKNOWN_MAILBOX]


def test_an_alias_made_meanwhile_wins(gateway):
    """The address was nobody's at RCPT; by the end of DATA somebody has it as an alias."""
    choose("anyone", gateway)
    client = gateway.open()
    client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<sales@alpha.test>", "DATA")
    with schema_context("sp_acme"):
        MailboxAlias.objects.create(address="sales@alpha.test", mailbox=Mailbox.objects.get(address="bob@alpha.test"))
    assert client.send_data(CLEAN).startswith("250 ")
    assert list_mailboxes() == []
    assert list_rows() == [("sales@alpha.test", "bob@alpha.test")]


def test_two_gateways_at_once_make_one_mailbox(gateway):
    with run_gateway() as other:
        choose("anyone", gateway, other)
        clients = [one.open() for one in (gateway, other) * 4]
        names = [f"new{number}@alpha.test" for number in range(60)]

        def send(client: Client) -> str:
            return client.mail("ann@sender.test", *(names if clients.index(client) % 3 else names[::-1]), data=CLEAN)

        with ThreadPoolExecutor(len(clients)) as threads:
            replies = list(threads.map(send, clients))
    assert {reply[:3] for reply in replies} == {"250"}
    assert sorted(list_mailboxes()) == sorted(names)


NOT_VERIFIED = "450 4.1.1 Mailbox cannot be verified at the moment, please try again later"
MAILBOXES = ("postmaster", "new", "newer", "newest")


def answer_rcpt(line: str) -> str | None:
    """As a customer's server that knows a few mailboxes."""
    local = line.partition("<")[2].partition("@")[0]
    return None if local in MAILBOXES else "550 5.1.1 User unknown"


@pytest.fixture
def server() -> Iterator[Sink]:
    with Sink() as sink:
        sink.on("RCPT", answer_rcpt)
        yield sink
    assert not any(line.startswith("DATA") for line in sink.commands)


@pytest.fixture
def asking(gateway, server, monkeypatch) -> Iterator[RunningGateway]:
    """A gateway that asks the server, knows nothing yet, and is patient for a moment only."""
    callout_of_now = Callout(hostname="lazaret.localhost", seconds=0.5)
    finder = RecipientFinder(gateway.gateway.directory, callout_of_now)
    monkeypatch.setattr(gateway.services, "recipients", finder)
    monkeypatch.setattr(callout, "FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(callout, "LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(recipients, "UNCLEAR_SECONDS", 0.0)
    choose("callout", gateway, server_port=server.port)
    yield gateway
    gateway.run(callout_of_now.close())


def list_asked(server: Sink) -> list[str]:
    """The mailboxes that the server was asked for, but for those that cannot exist."""
    asked = [line.partition("<")[2].rstrip(">") for line in server.commands if line.startswith("RCPT")]
    return [address for address in asked if not address.startswith("no-such-")]


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


def test_connections_kept_for_the_next_question_are_bounded(asking, server, monkeypatch):
    monkeypatch.setattr(asking.services.recipients._callout, "most_kept", 1)
    monkeypatch.setattr(callout, "IDLE_SECONDS", 60.0)
    with Sink() as other:
        choose("callout", asking, domain="beta.test", server_port=other.port)
        ask(asking, "new@alpha.test", "nobody@beta.test", "nobody@alpha.test")
        other.wait_for(lambda: "QUIT" in other.commands)
    assert "QUIT" not in server.commands


def test_a_dead_server_delays_nobody_else(asking, server):
    """Alpha's server says nothing for as long as it likes; beta's is asked meanwhile."""
    with Sink() as silent:
        silent.on("BANNER", Reply("220 late", after=30))
        choose("callout", asking, server_port=silent.port)
        choose("callout", asking, domain="beta.test", server_port=server.port)
        asking.services.recipients._callout.seconds = 20.0
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask, asking, "new@alpha.test")
            silent.wait_for(lambda: silent.connections == 1)
            assert ask(asking, "new@beta.test", "nobody@beta.test", "gus@gamma.test") == [
                RECIPIENT_OK,
                UNKNOWN_MAILBOX,
                RECIPIENT_OK,
            ]
            assert not waiting.done()
            silent.stop()
            assert waiting.result() == [NOT_VERIFIED]
        silent.start()


def test_the_same_question_is_asked_once_and_few_at_a_time(asking, server):
    server.on("MAIL", Reply("250 ok", after=0.1))
    asking.services.recipients._callout.seconds = 20.0
    names = ["new", "newer", *(f"guess{number}" for number in range(8))]
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda name: ask(asking, f"{name}@alpha.test"), names * 2))
    assert sorted(list_asked(server)) == sorted(f"{name}@alpha.test" for name in names)
    assert replies == ([[RECIPIENT_OK]] * 2 + [[UNKNOWN_MAILBOX]] * 8) * 2
    assert server.most_open <= callout.CONNECTIONS


def test_conversations_with_all_servers_together_are_bounded(asking, server):
    going_on: list[int] = [0, 0]  # now, and at most

    def begin(_: str) -> Reply:
        going_on[0] += 1
        going_on[1] = max(going_on)
        return Reply("250 2.1.0 ok", after=0.1)

    def end(line: str) -> str | None:
        going_on[0] -= 1
        return answer_rcpt(line)

    asking.services.recipients._callout.room = asyncio.Semaphore(1)
    asking.services.recipients._callout.seconds = 20.0
    with Sink() as other, ThreadPoolExecutor(10) as threads:
        choose("callout", asking, domain="beta.test", server_port=other.port)
        for sink in (server, other):
            sink.off("RCPT")
            sink.on("MAIL", begin)
            sink.on("RCPT", end)
        names = [f"guess{number}@{domain}" for number in range(5) for domain in ("alpha.test", "beta.test")]
        assert list(threads.map(lambda name: ask(asking, name), names)) == [[UNKNOWN_MAILBOX]] * 10
    assert going_on[1] == 1
    assert other.connections


def test_more_questions_than_a_server_can_take_are_put_off_at_once(asking, server, monkeypatch):
    monkeypatch.setattr(callout, "WAITING", 2)
    monkeypatch.setattr(callout, "CONNECTIONS", 1)
    asking.services.recipients._callout.seconds = 20.0
    gate = threading.Event()
    server.on("EHLO", lambda _: gate.wait(20) and None)
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(ask, asking, "new@alpha.test")
        server.wait_for(lambda: server.commands)
        others = [threads.submit(ask, asking, f"guess{number}@alpha.test") for number in range(5)]
        wait_until(lambda: sum(other.done() for other in others) == 3)
        assert [other.result() for other in others if other.done()] == [[NOT_VERIFIED]] * 3
        gate.set()
        assert first.result() == [RECIPIENT_OK]
        assert sorted(other.result() for other in others) == [[NOT_VERIFIED]] * 3 + [[UNKNOWN_MAILBOX]] * 2


def test_a_server_that_takes_everything_is_asked_no_more(asking, server):
    server.off("RCPT")
    assert ask(asking, *(f"x{number}@alpha.test" for number in range(10))) == [RECIPIENT_OK] * 10
    assert list_asked(server) == ["x0@alpha.test"]
    assert asking.services.recipients.counts == {"asked_yes": 1, "takes_all": 9}
    server.stop()
    assert ask(asking, "y@alpha.test") == [RECIPIENT_OK]
    server.start()


def test_a_connection_that_the_server_closed_meanwhile_is_made_anew(asking, server):
    ask(asking, "new@alpha.test")
    server.on("MAIL", CLOSE, times=1)
    assert ask(asking, "newer@alpha.test") == [RECIPIENT_OK]
    assert server.connections == 2


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


def test_the_domains_admin_sees_the_first_mail_and_its_mailbox(gateway):
    choose("anyone", gateway)
    gateway.open().mail("ann@sender.test", "new@alpha.test", data=SPAM)
    admin, stranger = browse("dora"), browse("bea")
    assert "new@alpha.test" in get_text(admin.get("/"))
    assert "new@alpha.test" in get_text(admin.get("/mailboxes/"))
    assert "new@alpha.test" not in get_text(stranger.get("/"))


def test_the_first_mail_is_in_the_first_report(gateway):
    choose("anyone", gateway)
    gateway.open().mail("ann@sender.test", "new+x@alpha.test", data=SPAM)
    with schema_context("sp_acme"):
        send_due()  # gives every mailbox its hour
        made = Mailbox.objects.filter(address="new@alpha.test")
        assert made.get().next_digest_at
        made.update(next_digest_at=timezone.now())
        send_due()
        digest = Digest.objects.get(mailbox=made.get())
    assert (digest.state, digest.held) == ("sent", 1)


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
