"""While gateways' reverse DNS rule is off, those who look after mail see it, and /healthz says it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from filtering.policy.models import PolicyRelease
from portal.web.views import health
from quarantine.platform.models import Heartbeat
from tests.portal.browsing import browse, get_text

PAGES = ("/reverse-dns/", "/activity/")
SINCE = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
ALARM = "The reverse DNS rule is off since 2 Nov 2026, 09:30"


def beat(instance: str, *, off: bool, seconds_ago: float = 0) -> None:
    at = timezone.now() - timedelta(seconds=seconds_ago)
    Heartbeat.objects.create(part="gateway", instance=instance, at=at, rule_off_since=SINCE if off else None)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("who", ["alice", "dora"])
def test_admins_see_the_alarm_and_what_it_means(acme, who, page):
    beat("a:1", off=True)
    text = get_text(browse(who).get(page))
    assert f"{ALARM}.</strong>" in text
    assert "mail from servers without reverse DNS is let in" in text
    assert "no mail is lost. A server whose name we do not remember waits up to a second" in text
    assert "The rule comes back by itself" in text


@pytest.mark.parametrize("page", PAGES)
def test_where_some_gateways_are_well_it_says_so(acme, page):
    beat("a:1", off=True)
    beat("a:2", off=False)
    beat("a:3", off=False)
    assert f"{ALARM}, in 1 of 3 gateway processes.</strong>" in get_text(browse("dora").get(page))


@pytest.mark.parametrize("page", PAGES)
def test_a_dead_gateway_keeps_no_alarm(acme, page):
    beat("a:1", off=True, seconds_ago=16)
    beat("a:2", off=False)
    assert "The reverse DNS rule is off" not in get_text(browse("dora").get(page))


@pytest.mark.parametrize(
    ("off", "told"),
    [
        (True, {"reverse_dns_rule": "off", "reverse_dns_rule_off_since": "2026-11-02T09:30:00Z"}),
        (False, {"reverse_dns_rule": "on"}),
    ],
)
def test_healthz_tells_it_and_is_ready_all_the_same(committed, monkeypatch, off, told):
    monkeypatch.setattr(health, "_cache", health._Cache())
    beat("a:1", off=off)
    for part in ("courier", "worker", "beat"):
        Heartbeat.objects.create(part=part, instance="a:1", at=timezone.now())
    response = browse().get("/healthz")
    found = json.loads(response.content)
    gateway = found["parts"]["gateway"]
    assert {name: gateway[name] for name in gateway if name.startswith("reverse_dns")} == told
    assert (response.status_code, found["ready"]) == (200, True)


@pytest.mark.parametrize(("full", "state"), [((True, True), "no_space"), ((True, False), "ready"), ((), "down")])
def test_healthz_says_that_mail_is_put_off_for_lack_of_space_where_all_gateways_do(committed, full, state):
    for number, lacks_space in enumerate(full):
        Heartbeat.objects.create(part="gateway", instance=f"a:{number}", at=timezone.now(), lacks_space=lacks_space)
    Heartbeat.objects.create(
        part="gateway", instance="dead", at=timezone.now() - timedelta(seconds=16), lacks_space=not all(full)
    )
    assert asyncio.run(health.check_parts())["gateway"]["state"] == state


@pytest.mark.parametrize("change", [{"is_live": False}, {"content": {"spam_scores": 5}}, {"content": [5]}])
def test_healthz_is_not_ready_where_mail_is_put_off_for_lack_of_a_policy(committed, change):
    """The live release is gone, or cannot be read."""
    policy = PolicyRelease.objects.filter(is_live=True)
    row = policy.get()
    beat("a:1", off=False)
    try:
        policy.update(**change)
        assert asyncio.run(health.check_parts())["gateway"]["state"] == "no_policy"
    finally:
        PolicyRelease.objects.filter(pk=row.pk).update(is_live=True, content=row.content)
    assert asyncio.run(health.check_parts())["gateway"]["state"] == "ready"


def test_healthz_says_nothing_of_the_rule_where_no_gateway_lives(committed):
    beat("a:1", off=True, seconds_ago=16)
    assert asyncio.run(health.check_parts())["gateway"] == {"state": "down", "instances": 0}
