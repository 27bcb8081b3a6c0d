"""A mail did not arrive: what the gateway really writes is found by one search, and every count leads to its mail."""

from __future__ import annotations

import json
from datetime import timedelta
from html import unescape

import pytest
from django.core.management import call_command
from django.db.models import Sum
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from quarantine.gateway.inlet import Pace
from quarantine.gateway.limits import Limits
from quarantine.models import Recipient
from quarantine.platform.models import HourlyCount
from quarantine.store import StoreUnavailableError
from quarantine.tracing import find_page, list_ways
from quarantine.wanted import Wanted
from tests.portal.browsing import browse, get_text
from tests.quarantine.gateways import RunningGateway, run_gateway, run_name_server
from tests.quarantine.test_gateway_mail import CLEAN, SPAM, WITHOUT_PTR
from tests.quarantine.test_gateway_session import MAIL, RCPT

pytestmark = pytest.mark.usefixtures("committed")
STRANGER = "RCPT TO:<zoe@no.test>"
MISSPELT = "RCPT TO:<bobb@alpha.test>"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    limits = Limits(recipients=2, command_seconds=5, pace=Pace(silence=0.3))
    with django_db_blocker.unblock(), run_name_server(), run_gateway(limits=limits) as running:
        yield running


def make_everything_happen(gateway: RunningGateway, monkeypatch) -> None:
    """Every outcome once or more, at two providers and at none."""

    async def fail(*_):
        raise StoreUnavailableError

    def send(octets: bytes, code: str) -> None:
        client = gateway.open()
        assert client.mail(data=octets).startswith(code)
        client.close()

    def talk(*commands: str, ip: str = "") -> str:
        client = gateway.open(ip)
        client.talk(*commands)
        reply = client.read_reply() if commands[-1] == "DATA" else ""
        client.close()
        return reply

    send(CLEAN, "250 ")
    send(SPAM, "250 ")
    talk(MAIL, RCPT, "QUIT", ip=WITHOUT_PTR)
    talk(MAIL, MISSPELT, STRANGER, "QUIT")
    talk(MAIL, RCPT, "RCPT TO:<carol@alpha.test>", "RCPT TO:<gus@gamma.test>", "RSET", "QUIT")
    talk(MAIL, RCPT, "QUIT")
    assert talk(MAIL, RCPT, "DATA").startswith("421 ")
    with monkeypatch.context() as patch:
        patch.setattr(gateway.services.intake, "receive", fail)
        send(CLEAN, "451 ")
    gateway.settle()


@pytest.fixture
def happened(gateway, monkeypatch):
    make_everything_happen(gateway, monkeypatch)


def call(capsys, *arguments: str):
    call_command(*arguments, "--json")
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_search_finds_each_end_of_a_mail_at_any_provider_and_at_none(happened, capsys):
    told = call(capsys, "trace", "ann@sender.test")
    found = sorted((line["provider"], line["outcome"], line["cause"]) for line in told)
    assert found == sorted([
        ("acme", "on_its_way", ""), ("acme", "held", ""), ("acme", "refused", "reverse_dns"),
        ("acme", "refused", "no_mailbox"), ("acme", "unfinished", "reset"), ("acme", "unfinished", "reset"),
        ("acme", "unfinished", "quit"), ("acme", "unfinished", "timeout"),
        ("acme", "deferred", "unavailable"), ("globex", "deferred", "too_many_recipients"),
        ("", "refused", "relay_denied"),
    ])  # fmt: skip
    [line] = call(capsys, "trace", "zoe@no.test")
    assert (line["provider"], line["outcome"]) == ("", "refused")


def test_every_count_leads_to_as_many_traces(happened):
    """What is counted of a provider, and what a number of the page of counts leads to, are the same."""
    for schema in ("sp_acme", "sp_globex"):
        sums = HourlyCount.objects.filter(schema=schema).values_list("hour", "kind", "cause").annotate(Sum("count"))
        assert sums.exists()
        for hour, kind, cause, number in sums:
            with schema_context(schema):
                wanted = Wanted(since=hour, until=hour + timedelta(hours=1), outcome=kind, cause=cause)
                rows = Recipient.objects.select_related("message")
                found = find_page(list_ways(wanted, rows, MailDomain.objects.all())).items
            assert len(found) == number, (schema, kind, cause)


def test_the_page_of_counts_leads_to_them_too(happened):
    text = unescape(get_text(browse("dora").get("/activity/")))
    for label in ("the client has no reverse DNS", "there is no such mailbox", "the database did not answer"):
        assert label in text
    assert "the domain is not ours" not in text


def test_the_history_of_each_can_be_read_by_those_concerned(happened):
    with schema_context("sp_acme"):
        rows = list(Recipient.objects.exclude(mailbox=None).filter(address="bob@alpha.test"))
    assert len(rows) >= 5
    for row in rows:
        page = unescape(get_text(browse("bob").get(f"/trace/{row.pk}/")))
        assert "RCPT TO:<bob@alpha.test>" in page
        assert "carol" not in page
        assert "gus" not in page
        if row.reply:
            assert row.reply in page


def test_what_reached_no_provider_is_told_to_the_operator_with_every_reply(happened, capsys):
    call_command("trace", "--unrouted", "--recipient", "zoe@no.test")
    told = capsys.readouterr().out
    assert "relay_denied: the domain is not ours" in told
    assert "RCPT TO:<zoe@no.test>: 550 5.7.1" in told
    assert "bobb@alpha.test" not in told
