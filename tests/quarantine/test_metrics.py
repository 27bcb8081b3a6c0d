"""What the gateway counts, with real mail: the same as the table of counts, and how long things take."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from django.db.models import Sum

from portal.settings.environment import PROJECT
from quarantine import metrics
from quarantine.causes import Cause
from quarantine.gateway import measures
from quarantine.gateway.limits import Limits
from quarantine.platform.models import HourlyCount
from tests.quarantine.gateways import run_gateway, run_name_server
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")

CLEAN = b"From: Ann <ann@sender.test>\r\nTo: bob@alpha.test\r\nSubject: lunch\r\n\r\nNoon?\r\n"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
SPAM = b"From: x@sender.test\r\nSubject: test\r\n\r\n" + GTUBE + b"\r\n"
WITH_PTR, WITHOUT_PTR, FAILING = "192.0.2.1", "192.0.2.2", "192.0.2.3"


@pytest.fixture
def gateway(monkeypatch):
    monkeypatch.setattr(measures, "MEASURE_SECONDS", 0.02)
    monkeypatch.setattr(measures, "TABLE_SECONDS", 0.02)
    with run_name_server() as names, run_gateway(limits=Limits(message_octets=1_000_000)) as running:
        names.names = {WITH_PTR: "mx.sender.test", FAILING: None}
        yield running


class Change:
    """How much each number has changed since."""

    def __init__(self) -> None:
        self.before = self.read()

    def read(self) -> Counter[tuple[str, ...]]:
        samples = (sample for family in metrics.REGISTRY.collect() for sample in family.samples)
        return Counter({(sample.name, *sample.labels.values()): sample.value for sample in samples})

    def list(self, name: str) -> dict[tuple[str, ...], float]:
        """By labels."""
        now = self.read()
        changed = {key[1:]: now[key] - self.before[key] for key in now if key[0] == f"lazaret_{name}"}
        return {labels: change for labels, change in changed.items() if change}

    def get(self, name: str) -> float:
        return self.list(name).get((), 0.0)


def list_hourly() -> dict[tuple[str, str], int]:
    rows = HourlyCount.objects.exclude(kind="dns").values_list("kind", "cause").annotate(total=Sum("count"))
    return {(kind, cause): total for kind, cause, total in rows}


def list_look_ups() -> list[tuple[str, int]]:
    rows = HourlyCount.objects.filter(kind="dns", schema="", domain_id=0)
    return list(rows.values_list("cause").annotate(total=Sum("count")))


def send_all_sorts(gateway) -> None:
    """Mail that is taken, held, refused and given up."""
    client = gateway.open()
    client.mail("ann@sender.test", "bob@alpha.test", "carol@alpha.test", data=CLEAN)
    client.mail("ann@sender.test", "bob@alpha.test", "carol@alpha.test", data=CLEAN)  # sent again
    client.mail("ann@sender.test", "gus@gamma.test", data=SPAM)
    client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<nobody@alpha.test>", "RCPT TO:<you@elsewhere.test>")
    client.talk("RCPT TO:<bob@alpha.test>", "RSET", "QUIT")
    gateway.open(WITHOUT_PTR).talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>", "QUIT")
    gateway.connect().ask("GET / HTTP/1.1")
    client = gateway.open()
    client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>", "DATA")
    client.close()


def test_recipients_are_counted_as_in_the_table_of_counts(gateway):
    change = Change()
    send_all_sorts(gateway)
    gateway.settle()
    found = change.list("recipients_total")
    assert found == list_hourly()
    assert found[("accepted", "")] == 2
    assert found[("repeated", "sent_again")] == 2
    assert {kind for kind, _ in found} == {"accepted", "repeated", "held", "refused", "deferred", "unfinished"}
    assert {cause for _, cause in found} - {""} <= set(Cause.values)
    assert change.get("duplicates_total") == 1


def test_a_port_scan_raises_no_alarm_of_deferred_mail(gateway):
    """The rule of docs/operations.md leaves out, above and below the line, what a scan is counted as."""
    change = Change()
    gateway.connect().ask("GET / HTTP/1.1")
    gateway.open().talk("QUIT")
    gateway.settle()
    rule = (PROJECT / "docs/operations.md").read_text().partition("LazaretDefersMail\n")[2].partition("for:")[0]
    above, below = (set(causes.split("|")) for causes in re.findall(r'cause!~"([^"]+)"', rule))
    assert set(change.list("recipients_total")) == {("deferred", "not_smtp"), ("unfinished", "no_mail")}
    assert {"not_smtp", "no_mail", "early_talker"} == above == below


def test_connections_and_commands_are_counted_in_our_own_words(gateway):
    change = Change()
    send_all_sorts(gateway)
    gateway.settle()
    assert change.list("connections_total") == {
        ("ended", "quit"): 2, ("ended", "disconnected"): 1, ("deferred", "not_smtp"): 1,
    }  # fmt: skip
    commands = change.list("commands_total")
    assert commands[("MAIL", "2xx")] == 6
    assert commands[("RCPT", "5xx")] == 3
    assert commands[("DATA", "2xx")] == 3
    assert commands[("other", "4xx")] == 1  # GET
    assert {verb for verb, _ in commands} <= metrics.VERBS | {"other"}


def test_octets_times_and_levels_are_measured(gateway):
    change = Change()
    client = gateway.open(WITH_PTR)
    client.mail(data=CLEAN)
    assert change.get("received_bytes_total") == len(CLEAN)
    assert change.get("data_reply_seconds_count") == 1
    assert change.get("commit_seconds_count") >= 1
    assert change.get("commit_items_sum") >= 1
    assert change.get("ptr_lookup_seconds_count") == 1
    wait_until(lambda: metrics.OPEN_SESSIONS._value.get() == 1)
    client.ask("QUIT")
    gateway.settle()
    wait_until(lambda: metrics.OPEN_SESSIONS._value.get() == 0)


def test_look_ups_are_counted_by_outcome_here_and_in_the_table_of_counts(gateway):
    change = Change()
    for ip in (WITH_PTR, WITHOUT_PTR, FAILING, "10.1.2.3"):
        gateway.open(ip).talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>", "QUIT")
    wait_until(lambda: len(change.list("ptr_lookups_total")) == 3)
    assert change.list("ptr_lookups_total") == {("ok",): 1, ("none",): 1, ("servfail",): 1}
    wait_until(lambda: dict(list_look_ups()) == {"ok": 1, "none": 1, "servfail": 1})
    time.sleep(0.1)
    assert dict(list_look_ups()) == {"ok": 1, "none": 1, "servfail": 1}


def test_the_last_look_ups_are_in_the_table_when_the_gateway_stops():
    with run_name_server() as names, run_gateway() as running:
        names.names = {WITH_PTR: "mx.sender.test"}
        running.open(WITH_PTR).talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>", "QUIT")
        assert list_look_ups() == []
    assert dict(list_look_ups()) == {"ok": 1}


def test_what_is_put_off_while_the_database_is_away_is_counted_at_once(gateway, monkeypatch):
    client = gateway.open()
    client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>", "DATA")
    monkeypatch.setattr(type(gateway.gateway.store), "is_closed", True)
    change = Change()
    assert client.send_data(CLEAN).startswith("451 ")
    assert change.list("recipients_total") == {("deferred", "unavailable"): 1}
    wait_until(lambda: metrics.STORE_CLOSED._value.get() == 1)
    assert client.talk("MAIL FROM:<ann@sender.test>", "RCPT TO:<bob@alpha.test>")[1].startswith("451 ")
    wait_until(lambda: change.list("shed_total") == {("unavailable",): 1})
