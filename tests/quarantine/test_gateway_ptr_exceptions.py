"""A mail server without reverse DNS that somebody lets in: what it is answered, and what is on record."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from filtering.policy.ptr_exceptions import end, grant
from portal.tenants.models import MailDomain
from portal.tenants.people.models import PtrException
from quarantine.models import Event, Recipient
from tests.quarantine.gateways import run_gateway, run_name_server

pytestmark = pytest.mark.usefixtures("committed")

CLEAN = b"From: Ann <ann@sender.test>\r\nSubject: lunch\r\n\r\nNoon?\r\n"
SERVER, OTHER, SIXTH = "192.0.2.2", "192.0.3.2", "2001:db8::2"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_name_server(), run_gateway() as running:
        yield running


@pytest.fixture
def second(committed):
    """Another gateway process's worth of memory."""
    with run_gateway() as running:
        yield running


def except_(network: str, domain: str = "", schema: str = "sp_acme") -> PtrException:
    domain_id = MailDomain.objects.get(name=domain).pk if domain else None
    with schema_context(schema):
        return grant(network, domain_id=domain_id, days=7, reason="their ISP is slow", by="dora@alpha.test")


def end_all(schema: str = "sp_acme") -> None:
    with schema_context(schema):
        assert end(PtrException.objects.all(), by="alice@acme.test") == 1


def wait(gateway, *addresses: str, expected: int) -> None:
    for address in addresses:
        gateway.wait_for_change(address, lambda found: len(found.ptr_exceptions) == expected)


def ask(gateway, recipient: str = "bob@alpha.test", ip: str = SERVER) -> str:
    """The code that RCPT is answered with."""
    client = gateway.open(ip)
    reply = client.talk("MAIL FROM:<ann@sender.test>", f"RCPT TO:<{recipient}>")[1]
    client.close()
    return reply[:3]


def test_refused_before_let_in_meanwhile_refused_after(gateway, second):
    """In every gateway at once; other domains, providers and servers are not concerned."""
    both = (gateway, second)
    assert [ask(one) for one in both] == ["553", "553"]
    except_(SERVER, "alpha.test")
    for one in both:
        wait(one, "bob@alpha.test", expected=1)
        assert ask(one) == "250"
        assert ask(one, ip=OTHER) == "553"
        assert ask(one, "bea@beta.test") == "553"
        assert ask(one, "gus@gamma.test") == "553"
    end_all()
    for one in both:
        wait(one, "bob@alpha.test", expected=0)
        assert ask(one) == "553"


def test_one_for_the_provider_lets_in_to_all_its_domains_and_to_nobody_elses(gateway):
    except_("192.0.2.0/24")
    wait(gateway, "bob@alpha.test", "bea@beta.test", expected=1)
    assert [ask(gateway, whom) for whom in ("bob@alpha.test", "bea@beta.test", "gus@gamma.test")] == [
        "250",
        "250",
        "553",
    ]
    assert ask(gateway, ip=OTHER) == "553"


def test_one_of_another_provider_changes_nothing(gateway):
    except_(SERVER, schema="sp_globex")
    wait(gateway, "gus@gamma.test", expected=1)
    assert (ask(gateway, "gus@gamma.test"), ask(gateway)) == ("250", "553")


def test_an_ipv6_server_is_let_in(gateway):
    assert ask(gateway, ip=SIXTH) == "553"
    except_("2001:db8::/48", "alpha.test")
    wait(gateway, "bob@alpha.test", expected=1)
    assert ask(gateway, ip=SIXTH) == "250"


def test_it_ends_by_itself_though_nothing_changes_in_the_database(gateway):
    """The gateway has it in memory, and looks at the time whenever it is used."""
    with schema_context("sp_acme"):
        until = timezone.now() + timedelta(seconds=2)
        PtrException.objects.create(network=SERVER, until=until, reason="why", created_by="dora@alpha.test")
    wait(gateway, "bob@alpha.test", expected=1)
    code = ask(gateway)
    assert code == "250" or timezone.now() >= until
    time.sleep(max((until - timezone.now()).total_seconds(), 0) + 0.01)
    wait(gateway, "bob@alpha.test", expected=1)  # from memory
    assert ask(gateway) == "553"


def test_one_that_was_over_when_it_was_looked_up_is_none(gateway):
    with schema_context("sp_acme"):
        past = timezone.now() - timedelta(seconds=1)
        PtrException.objects.create(network=SERVER, until=past, reason="why", created_by="dora@alpha.test")
    assert ask(gateway) == "553"


def test_the_message_is_taken_and_its_trace_says_why(gateway):
    made = except_("192.0.2.0/24", "alpha.test")
    wait(gateway, "bob@alpha.test", expected=1)
    reply = gateway.open(SERVER).mail(data=CLEAN)
    assert reply.startswith("250 ")
    with schema_context("sp_acme"):
        row = Recipient.objects.select_related("message").get(message__trace_id=reply.rpartition(" ")[2])
        event = Event.objects.get(message=row.message, kind="accepted")
    said = (
        f"Could not resolve PTR record for {SERVER}; an admin made an exception for 192.0.2.0/24"
        f" until {made.until:%Y-%m-%d %H:%M} UTC"
    )
    assert (row.state, row.category, row.message.ptr_status) == ("delivering", "clean", "none")
    assert said in [finding["text"] for finding in row.findings if finding.get("learn") is False]
    assert said in event.text


def test_where_it_is_held_instead_of_refused_an_exception_delivers_it(gateway):
    MailDomain.objects.filter(name="alpha.test").update(ptr_action="quarantine")
    except_(SERVER, "alpha.test")
    wait(gateway, "bob@alpha.test", expected=1)
    wait(gateway, "bea@beta.test", expected=0)
    gateway.open(SERVER).mail(data=CLEAN)
    with schema_context("sp_acme"):
        assert Recipient.objects.get().state == "delivering"


def test_of_one_message_only_those_recipients_take_it_who_made_an_exception(gateway):
    except_(SERVER, "alpha.test")
    wait(gateway, "bob@alpha.test", expected=1)
    client = gateway.open(SERVER)
    replies = client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bea@beta.test>", "RCPT TO:<bob@alpha.test>", "DATA")
    assert [reply[:3] for reply in replies] == ["250", "553", "250", "354"]
    assert client.send_data(CLEAN).startswith("250 ")
    with schema_context("sp_acme"):
        found = set(Recipient.objects.values_list("address", "state"))
    assert found == {("bea@beta.test", "refused"), ("bob@alpha.test", "delivering")}
