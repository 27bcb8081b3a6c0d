"""/metrics of a running Lazaret: numbers move with real mail, and outlive whoever counted them."""

from __future__ import annotations

import http.client
import signal
import time

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quarantine.tally import WRITE_SECONDS
from tests.running import LOOPBACK
from tests.world import make_mail, make_spam

pytestmark = pytest.mark.faults

MAIL = 12
COUNTS = ("commands_total 2xx DATA", "recipients_total  accepted", "delivery_attempts_total mail taken")


def ask(stack, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(LOOPBACK, stack.web_port, timeout=10)
    try:
        connection.request("GET", "/metrics", headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def scrape(stack) -> dict[str, float]:
    """Samples by name and labels."""
    status, text = ask(stack)
    assert status == 200
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape_at_rest(stack) -> dict[str, float]:
    """When all is counted and delivered that was sent before."""
    before: dict[str, float] = {}
    numbers = scrape(stack)
    while any(get(numbers, name) != before.get(name) for name in COUNTS):
        before = {name: get(numbers, name) for name in COUNTS}
        time.sleep(3 * WRITE_SECONDS)
        numbers = scrape(stack)
    return numbers


def send(world, number: int, subject: str) -> None:
    for index in range(number):
        assert world.send(make_mail(f"{subject} {index}"), to="bob@acme.test").code == 250
    assert world.send(make_spam(f"{subject} spam"), to="bob@acme.test").code == 250


def get(numbers: dict[str, float], name: str) -> float:
    return numbers.get(f"lazaret_{name}", 0)


def test_counts_move_with_mail_and_survive_those_who_counted(world):
    stack = world.stack
    before = scrape_at_rest(stack)
    send(world, MAIL, "counted")
    stack.wait_until(
        lambda: get(scrape(stack), "recipients_total  accepted") - get(before, "recipients_total  accepted") == MAIL
    )
    stack.wait_until(
        lambda: (
            get(scrape(stack), "delivery_attempts_total mail taken") - get(before, "delivery_attempts_total mail taken")
            == MAIL
        )
    )
    after = scrape_at_rest(stack)
    assert get(after, "recipients_total  held") - get(before, "recipients_total  held") == 1
    assert get(after, "commands_total 2xx DATA") - get(before, "commands_total 2xx DATA") == MAIL + 1
    assert get(after, "data_reply_seconds_count") - get(before, "data_reply_seconds_count") == MAIL + 1
    assert get(after, "delivery_attempt_seconds_count mail") > get(before, "delivery_attempt_seconds_count mail")

    for part in ("gateway", "courier"):
        pids = stack.pids(part)
        stack.kill(part, signal.SIGKILL, all_of_it=True)
        stack.wait_until(
            lambda pids=pids, part=part: not set(pids) & set(stack.pids(part)) and stack.health()[0] == 200
        )
    later = scrape(stack)
    for name in after:
        if name.partition(" ")[0].endswith(("_total", "_count", "_sum", "_bucket")):
            assert later[name] >= after[name], name
    send(world, MAIL, "counted again")
    stack.wait_until(
        lambda: get(scrape(stack), "recipients_total  accepted") - get(after, "recipients_total  accepted") == MAIL
    )
    gateways = len(stack.pids("gateway"))
    names = sorted(path.name for path in (stack.home / "metrics").glob("gateway-*"))
    assert names == [f"gateway-{number}" for number in range(1, gateways + 1)]
    living = {f"lazaret_process_resident_bytes {name}" for name in names}
    stack.wait_until(lambda: living <= set(scrape(stack)))


def test_every_part_reports_its_numbers(world):
    found = scrape(world.stack)
    for process in ("gateway-1", "courier-1", "web-1", "worker-1"):
        assert found[f"lazaret_process_cpu_seconds_total {process}"] > 0
    for part in ("gateway", "courier", "worker", "beat"):
        assert found[f"lazaret_processes_up {part}"] >= 1
    world.stack.wait_until(
        lambda: get(scrape(world.stack), "tasks_total success quarantine.platform.tasks.heartbeat") > 0
    )


def test_a_proxied_request_is_not_this_machines(stack):
    assert ask(stack, **{"X-Forwarded-For": "127.0.0.1"})[0] == 404
    assert ask(stack, **{"X-Forwarded-Proto": "https"})[0] == 404
    assert ask(stack, Host="acme.localhost")[0] == 200


def test_it_answers_while_postgresql_does_not(world):
    stack = world.stack
    before = scrape(stack)
    assert before["lazaret_database_up"] == 1
    postmaster = psutil.Process(stack.pids("postgres")[0])
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        during = scrape(stack)
    finally:
        for process in reversed(family):
            process.resume()
    assert during["lazaret_database_up"] == 0
    assert during["lazaret_recipients_total  accepted"] >= before["lazaret_recipients_total  accepted"]
    assert "lazaret_processes_up gateway" not in during
    stack.wait_until(lambda: scrape(stack)["lazaret_database_up"] == 1 and stack.health()[0] == 200)
