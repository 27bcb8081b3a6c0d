"""PostgreSQL is away: the gateway says 451 and takes mail again by itself as soon as it can."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

import psutil
import pytest
import redis

from tests.quarantine.gateways import SIGNATURE
from tests.world import World, make_mail

pytestmark = pytest.mark.faults


def test_with_postgresql_stopped_the_gateway_answers_451_and_recovers(world: World):
    assert world.send(make_mail("before"), to="kit@acme.test").code == 250
    [server] = world.stack.pids("postgres")

    stopped = signal_all(server, signal.SIGSTOP)
    try:
        during = world.send(make_mail("during"), to="kit@acme.test")
    finally:
        signal_each(stopped, signal.SIGCONT)

    assert (during.code, during.text[:5]) == (451, "4.3.0")
    assert "(" not in SIGNATURE.sub("", during.text)
    deadline = time.monotonic() + 30
    while (after := world.send(make_mail("after"), to="kit@acme.test")).code != 250:
        assert after.code in {421, 451}
        assert time.monotonic() < deadline
        time.sleep(0.5)
    world.sink.wait_for(lambda: after.trace_id in world.find_delivered(), seconds=60)


@pytest.mark.parametrize("fault", ["stopped", "flushed"])
def test_mail_goes_on_without_valkey(world: World, fault: str):  # Q16
    wait_until_every_gateway_is_well(world)
    [server] = world.stack.pids("valkey")
    if fault == "stopped":
        os.kill(server, signal.SIGSTOP)
    else:
        flush(world)
    try:
        sent = [world.send(make_mail(f"valkey {fault} {number}"), to="kit@acme.test") for number in range(5)]
        assert [one.code for one in sent] == [250] * 5
        world.sink.wait_for(lambda: {one.trace_id for one in sent} <= set(world.find_delivered()), seconds=30)
    finally:
        os.kill(server, signal.SIGCONT)
    world.stack.wait_ready()


def wait_until_every_gateway_is_well(world: World) -> None:
    """After an outage each opens by itself, one a little later than the other; who answers is chance."""
    deadline = time.monotonic() + 30
    well = 0
    while well < 12:
        assert time.monotonic() < deadline
        well = well + 1 if world.send(make_mail("well"), to="kit@acme.test").code == 250 else 0


def flush(world: World) -> None:
    text = (world.stack.home / "lazaret.env").read_text()
    url = re.search(r"^BROKER_URL=['\"]?([^'\"\n]+)", text, re.MULTILINE)
    assert url
    with redis.Redis.from_url(url.group(1)) as client:
        client.flushall()


def signal_all(server: int, number: signal.Signals) -> list[psutil.Process]:
    """Signal the server and every process it made."""
    postmaster = psutil.Process(server)
    postmaster.send_signal(number)  # first, so that it makes no more
    children = postmaster.children(recursive=True)
    signal_each(children, number)
    return [postmaster, *children]


def signal_each(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
