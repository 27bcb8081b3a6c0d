"""Which recipients are taken, by the policy of their domain; and the mailbox made on the first mail."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.people.models import Mailbox, MailboxAlias
from reports.digests import send_due
from reports.models import Digest
from tests.portal.browsing import browse, get_text
from tests.quarantine.gateways import Client, run_gateway, run_name_server
from tests.quarantine.policies import NOT_SANE, RECIPIENT_OK, UNKNOWN_MAILBOX, ask, choose, list_mailboxes, list_rows
from tests.quarantine.test_gateway_mail import CLEAN, SPAM

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_name_server(), run_gateway() as running:
        yield running


def test_known_mailboxes_alone(gateway):
    choose("known", gateway)
    assert ask(gateway, "bob@alpha.test", "new@alpha.test") == [RECIPIENT_OK, UNKNOWN_MAILBOX]


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
