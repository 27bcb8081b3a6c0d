"""/metrics: what it says, and to whom."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from quarantine import metrics
from quarantine.delivery import rows
from quarantine.platform.heartbeat import beat
from quarantine.platform.models import DeliveryJob, Lane
from quarantine.tally import Tally

STRANGER = "203.0.113.9"


@pytest.fixture(autouse=True)
def home(settings, tmp_path):
    settings.HOME, settings.METRICS_HOME = tmp_path, tmp_path / "metrics"


def scrape(**request) -> dict[str, float]:
    """Every sample by its name and labels."""
    response = Client().get("/metrics", **request)
    assert (response.status_code, response["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
    }


def test_every_metric_is_described_and_named_well(db):
    families = {f.name: f for f in text_string_to_metric_families(Client().get("/metrics").content.decode())}
    for family in metrics.REGISTRY.collect():
        assert families[family.name].type == family.type
    for name, family in families.items():
        assert name.startswith("lazaret_")
        assert family.documentation.endswith(".")


def test_numbers_of_all_processes_and_of_the_database_are_told(committed, settings):
    tally = Tally(settings.METRICS_HOME, "gateway", metrics.REGISTRY)
    before = metrics.DUPLICATES._value.get()
    metrics.DUPLICATES.inc(3)
    metrics.count_command("<script>", 502)
    tally._write()
    beat("gateway", "here:1")
    beat("gateway", "here:2")
    now = timezone.now()
    job = {"schema": "sp_acme", "domain_id": 1, "lane": Lane.MAIL, "created_at": now - timedelta(hours=2)}
    DeliveryJob.objects.create(**job, recipient_id=1, due_at=now - timedelta(minutes=5))
    DeliveryJob.objects.create(**job, recipient_id=2, due_at=now + timedelta(minutes=5))
    found = scrape()
    assert found["lazaret_duplicates_total"] == before + 3
    assert found["lazaret_commands_total 5xx other"] >= 1
    assert not any("script" in name for name in found)
    assert found["lazaret_database_up"] == 1
    assert found["lazaret_processes_up gateway"] == 2
    assert found["lazaret_processes_up courier"] == 0
    assert 0 <= found["lazaret_heartbeat_age_seconds gateway"] < 60
    assert found["lazaret_delivery_queue_jobs mail"] == 2
    assert 7200 <= found["lazaret_delivery_queue_oldest_seconds mail"] < 7300
    assert 300 <= found["lazaret_delivery_overdue_seconds mail"] < 400
    assert found["lazaret_delivery_queue_jobs digest"] == found["lazaret_delivery_overdue_seconds digest"] == 0
    assert 0 < found["lazaret_home_free_bytes"] <= found["lazaret_home_size_bytes"]


def test_long_queues_are_counted_to_a_bound_only(committed, monkeypatch):
    monkeypatch.setattr(rows, "MOST_COUNTED", 2)
    for number in range(5):
        DeliveryJob.objects.create(schema="sp_acme", domain_id=1, lane=Lane.MAIL, recipient_id=number)
    assert scrape()["lazaret_delivery_queue_jobs mail"] == 2


def test_without_a_database_the_rest_is_told(committed, monkeypatch):
    monkeypatch.setattr("portal.web.views.metrics.get_conninfo", lambda **_: "host=127.0.0.1 port=1")
    found = scrape()
    assert found["lazaret_database_up"] == 0
    assert found["lazaret_home_free_bytes"] > 0
    assert not any(name.startswith(("lazaret_delivery_queue", "lazaret_processes_up")) for name in found)


@pytest.mark.parametrize("host", ["acme.localhost", "nobody.example", "127.0.0.1"])
def test_it_is_answered_at_any_hostname(db, host):
    assert "lazaret_database_up" in scrape(HTTP_HOST=host)


LOOPBACK, V6, MAPPED = "127.0.0.1", "::1", "::ffff:127.0.0.1"


@pytest.mark.parametrize(
    ("networks", "proxies", "peer", "headers", "status"),
    [
        ((), 0, LOOPBACK, {}, 200),
        ((), 0, V6, {}, 200),
        ((), 0, MAPPED, {}, 200),
        ((), 0, STRANGER, {}, 404),
        ((), 0, "", {}, 404),
        # What a proxy on this machine passes on is not this machine's.
        ((), 1, LOOPBACK, {"X-Forwarded-For": STRANGER}, 404),
        ((), 1, LOOPBACK, {"X-Forwarded-For": LOOPBACK}, 404),
        ((), 0, LOOPBACK, {"X-Forwarded-For": LOOPBACK}, 404),
        ((), 0, LOOPBACK, {"X-Forwarded-Proto": "https"}, 404),
        ((), 0, LOOPBACK, {"Forwarded": "for=127.0.0.1"}, 404),
        ((), 0, LOOPBACK, {"X-Real-IP": LOOPBACK}, 404),
        # Networks named by the operator, directly and behind proxies.
        (("203.0.113.0/24",), 0, STRANGER, {}, 200),
        (("203.0.113.0/24",), 0, "203.0.114.9", {}, 404),
        (("2001:db8::/32",), 0, "2001:db8::9", {}, 200),
        (("203.0.113.0/24",), 1, LOOPBACK, {"X-Forwarded-For": STRANGER}, 200),
        (("203.0.113.0/24",), 2, LOOPBACK, {"X-Forwarded-For": f"{STRANGER}, 10.0.0.1"}, 200),
        (("203.0.113.0/24",), 1, LOOPBACK, {"X-Forwarded-For": f"{STRANGER}, 198.51.100.1"}, 404),
        (("203.0.113.0/24",), 0, LOOPBACK, {"X-Forwarded-For": STRANGER}, 404),
        (("203.0.113.0/24",), 0, STRANGER, {"X-Forwarded-For": STRANGER}, 404),
        (("203.0.113.0/24",), 2, LOOPBACK, {"X-Forwarded-For": STRANGER}, 404),
        (("203.0.113.0/24",), 1, LOOPBACK, {"X-Forwarded-For": "nonsense"}, 404),
    ],
)
def test_only_this_machine_and_the_named_networks_may_read_it(  # reference, section 7
    db, settings, networks, proxies, peer, headers, status
):
    settings.METRICS_NETWORKS, settings.ALLAUTH_TRUSTED_PROXY_COUNT = networks, proxies
    client = Client(headers=headers, REMOTE_ADDR=peer)
    response = client.get("/metrics")
    assert response.status_code == status
    assert (b"lazaret_" in response.content) == (status == 200)


def test_for_a_stranger_it_is_a_page_like_any_that_does_not_exist(db):
    client = Client(REMOTE_ADDR=STRANGER, HTTP_HOST="acme.localhost")
    assert client.get("/metrics").content == client.get("/nothing-here").content


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_nothing_can_be_sent_to_it(db, method):
    assert getattr(Client(), method)("/metrics").status_code == 405


def test_pages_are_counted_by_class(db):
    before = metrics.PAGES.labels("4xx")._value.get()
    Client(HTTP_HOST="acme.localhost").get("/nothing-here")
    assert metrics.PAGES.labels("4xx")._value.get() == before + 1
