"""A running gateway whose resolver is stopped, ill or lying: nobody is refused for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest
from django.core.management import call_command
from django.db.models import Sum
from django.test import override_settings
from django_tenants.utils import schema_context

from filtering.evidence import resolver as resolving
from portal.settings.environment import Address
from portal.tenants.models import MailDomain
from quarantine.models import Message, Recipient, State
from quarantine.platform.heartbeat import RuleOff, find_rule_off
from quarantine.platform.models import Heartbeat, HourlyCount
from tests.dns_server import DnsServer
from tests.portal.browsing import browse, get_text
from tests.quarantine.gateways import RunningGateway, run_gateway
from tests.quarantine.test_gateway_mail import CLEAN
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")

WITH_PTR, WITHOUT = "192.0.2.1", "192.0.2.99"
OK = "250 2.1.5 Recipient ok"


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        running.add(WITH_PTR, "mail.sender.test")
        with override_settings(RESOLVERS=(Address(*running.address),)):
            yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute at work takes a second here."""
    monkeypatch.setattr("quarantine.platform.heartbeat.BEAT_SECONDS", 0.2)
    for name, seconds in (("FAILURE_SECONDS", 0.5), ("WATCH_SECONDS", 0.2), ("DEAD_SECONDS", 0.5)):
        monkeypatch.setattr(resolving, name, seconds)
    monkeypatch.setattr("filtering.evidence.breaker.WINDOW_SECONDS", 1.0)


def ask(gateway: RunningGateway, ip: str, *recipients: str) -> list[str]:
    """What the client is told about the recipients."""
    client = gateway.open(ip)
    try:
        client.ask("MAIL FROM:<ann@sender.test>")
        return client.talk(*(f"RCPT TO:<{recipient}>" for recipient in recipients or ("bob@alpha.test",)))
    finally:
        client.close()


def is_refused(gateway: RunningGateway, ip: str) -> bool:
    (reply,) = ask(gateway, ip)
    return reply.startswith("553 5.3.0 ") and "Could not resolve PTR record" in reply


def send(gateway: RunningGateway, ip: str, number: int = 0) -> str:
    client = gateway.open(ip)
    try:
        return client.mail(data=b"X-Number: %d\r\n" % number + CLEAN)
    finally:
        client.close()


def count_refused() -> int:
    with schema_context("sp_acme"):
        return Recipient.objects.filter(state=State.REFUSED).count()


# R04 R05 R06 Q17
@pytest.mark.parametrize("illness", ["SERVFAIL", "REFUSED", "DROP", "GARBAGE", "TRUNCATED", "late", "NXDOMAIN"])
def test_ill_or_lying_resolver_refuses_nobody_and_recovers(server: DnsServer, illness: str, impatient: None) -> None:
    server.everything, server.delay = ("", 5.5) if illness == "late" else (illness, 0.0)
    with run_gateway() as gateway:
        gateway.gateway.resolver.deadline = 5.0 if illness == "late" else 1.0
        for ip in (WITH_PTR, "203.0.113.7", WITHOUT):
            assert send(gateway, ip).startswith("250 2.0.0 ")
        assert count_refused() == 0
        with schema_context("sp_acme"):
            assert {row.ptr_status for row in Message.objects.all()} == {"unknown"}

        server.everything, server.delay = "", 0.0

        wait_until(lambda: is_refused(gateway, WITHOUT), seconds=60)
        assert send(gateway, WITH_PTR, 2).startswith("250 2.0.0 ")
        with schema_context("sp_acme"):
            assert Message.objects.filter(client_ip=WITH_PTR, ptr_status="ok").exists()


# R12
def test_stopped_resolver_is_an_alarm_and_no_refusal(
    server: DnsServer, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    port = server.address[1]
    with run_gateway() as gateway:
        resolver = gateway.gateway.resolver
        assert is_refused(gateway, WITHOUT)
        server.stop()
        wait_until(lambda: resolver.breaker.is_open)
        before = count_refused()
        # also who was refused a moment ago: its absence is in memory, but the rule is off
        for ip in (WITHOUT, *(f"198.51.{number}.1" for number in range(50))):
            assert ask(gateway, ip) == [OK]
        assert count_refused() == before
        assert "rule_off rule=reverse_dns cause=dead no_server_gave_a_name_for_seconds=" in caplog.text
        wait_until(lambda: find_rule_off() is not None)
        assert find_rule_off() == RuleOff(resolver.breaker.open_since, gateways=1, of=1)

        with DnsServer(port) as again:
            again.add(WITH_PTR, "mail.sender.test")
            wait_until(lambda: not resolver.breaker.is_open, seconds=60)
            wait_until(lambda: is_refused(gateway, WITHOUT), seconds=60)
            assert ask(gateway, WITH_PTR) == [OK]
            wait_until(lambda: find_rule_off() is None)
        events = [record.message.split()[0] for record in caplog.records if record.message.startswith("rule_")]
        assert events[:2] == ["rule_off", "rule_on"]


@pytest.mark.parametrize(("illness", "said"), [("SERVFAIL", "SERVFAIL"), ("REFUSED", "REFUSED"), ("DROP", "timeout")])
def test_why_nobody_knows_is_on_record_of_mail_that_was_never_sent_too(
    server: DnsServer, illness: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.everything = illness
    with run_gateway() as gateway:
        gateway.gateway.resolver.deadline = 0.5
        assert ask(gateway, "203.0.113.7") == [OK]
        assert ask(gateway, "203.0.113.8", "you@elsewhere.test")[0].startswith("550 ")
        gateway.settle()
    for ip in ("203.0.113.7", "203.0.113.8"):
        call_command("trace", ip)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  PTR "))
        assert line.startswith("  PTR        unknown")
        assert line.endswith(f": {said}")


def read_failed(who: str, at: str = "acme") -> list[tuple[str, int]]:
    """What the page of counts says of mail whose server's name could not be looked up: the sums, by cause."""
    text = unescape(get_text(browse(who, at=at).get("/activity/"))).partition("name could not be looked up</h2>")[2]
    sums = re.search(r'<tr role="row" class="sum">.*?</tr>', text, re.DOTALL)
    cell = r'<span class="label"[^>]*>([^<]+)</span><a href="([^"]+)"[^>]*>(\d+)'
    cells = re.findall(cell, sums.group()) if sums else []
    for _, url, number in cells:  # each leads to its mail
        assert get_text(browse(who, at=at).get(url)).count('<tr role="row"><td class="from"') == int(number)
    return [(label, int(number)) for label, _, number in cells]


@pytest.mark.parametrize(
    ("illness", "told"), [("SERVFAIL", "The name server failed"), ("DROP", "No answer in time"), ("", "")]
)
def test_one_mail_whose_server_has_no_known_name_is_counted_for_its_recipients(
    server: DnsServer, illness: str, told: str
) -> None:
    """However few they are, once, whatever becomes of it, and for nobody else's."""
    server.everything = illness
    with run_gateway() as gateway:
        gateway.gateway.resolver.deadline = 0.5
        for _ in range(2):  # the second is known already
            client = gateway.open(WITH_PTR)
            client.mail("ann@sender.test", "bob@alpha.test", "carol@alpha.test", data=CLEAN)
            client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<nobody@alpha.test>", "QUIT")
            client.close()
        gateway.settle()
    counted = HourlyCount.objects.filter(schema="sp_acme").exclude(kind="dns_failed")
    sums = dict(counted.values_list("kind").annotate(Sum("count")))
    assert sums == {"accepted": 2, "repeated": 2, "refused": 2}
    expected = [(told, 4)] if told else []  # two who got it, and twice one who is not there
    assert read_failed("dora") == read_failed("alice") == expected
    assert read_failed("mallory", at="globex") == []


def test_mail_let_in_while_the_rule_was_off_says_so(server: DnsServer, capsys: pytest.CaptureFixture[str]) -> None:
    with run_gateway() as gateway:
        resolver = gateway.gateway.resolver
        assert is_refused(gateway, WITHOUT)
        gateway.run(_kill(resolver))
        assert ask(gateway, WITHOUT) == [OK]
        gateway.settle()
    call_command("trace", WITHOUT, "--outcome", "unfinished")
    assert "ms): NXDOMAIN; the rule is off while look-ups fail\n" in capsys.readouterr().out


def test_where_the_state_of_the_rule_cannot_be_written_mail_goes_on(
    server: DnsServer, impatient: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "quarantine.platform.heartbeat.TELL", "UPDATE public.nothing SET a = %s, b = %s, c = %s, d = %s"
    )
    server.add(WITH_PTR, "mail.sender.test")
    with run_gateway() as gateway:
        wait_until(lambda: "alarms_not_told" in caplog.text)
        first = Heartbeat.objects.get(part="gateway").at
        assert send(gateway, WITH_PTR).startswith("250 2.0.0 ")
        wait_until(lambda: Heartbeat.objects.get(part="gateway").at > first)


async def _kill(resolver: resolving.Resolver) -> None:
    resolver.breaker.record_death("seconds=20")


# R14
def test_rule_is_on_for_one_provider_and_off_for_another(server: DnsServer) -> None:
    MailDomain.objects.filter(name="gamma.test").update(ptr_action="off")
    with run_gateway() as gateway:
        refused, taken = ask(gateway, WITHOUT, "bob@alpha.test", "gus@gamma.test")
        assert refused.startswith("553 5.3.0 ")
        assert taken == OK
        for ip in (WITH_PTR, WITHOUT):
            client = gateway.open(ip)
            assert client.mail("ann@sender.test", "gus@gamma.test", data=CLEAN).startswith("250 2.0.0 ")
            client.close()
    with schema_context("sp_globex"):
        with_ptr, without = Recipient.objects.filter(state=State.DELIVERING).order_by("pk")
        assert (without.message.ptr_status, with_ptr.message.ptr_status) == ("none", "ok")
        assert (without.category, without.score, without.findings) == (
            with_ptr.category,
            with_ptr.score,
            with_ptr.findings,
        )
        assert not [finding for finding in without.findings if finding["check"] == "reverse_dns"]


# R07 R11
@pytest.mark.parametrize(
    ("name", "status"), [("mx.bank.test.", "mismatch"), ("localhost.", "malformed"), ("<script>.test.", "malformed")]
)
def test_claimed_names_are_on_record_and_refuse_nobody(server: DnsServer, name: str, status: str) -> None:
    server.answer_reverse("192.0.2.50", name)
    with run_gateway() as gateway:
        assert send(gateway, "192.0.2.50").startswith("250 2.0.0 ")
    with schema_context("sp_acme"):
        assert [row.ptr_status for row in Message.objects.all()] == [status]
