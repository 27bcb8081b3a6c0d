"""The power may be cut at any moment, again and again, while mail comes: Lazaret comes up by booting alone, nothing
answered 250 is lost, and what had just been handed over is doubled at most.

Every fourth cut falls into the start. POWER_CUTS says how many there are (2; for the long run 50 or more).

All processes and their file system are stopped at once: what the kernel had not written out is gone
(`tests.faults.cut_processes`). What was written and not flushed, which a disk may lose, stays.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.faults.cut_processes import CutProcesses, find_obstacle
from tests.faults.reckoning import RECIPIENT, Reckoning, start_traffic
from tests.faults.traffic import Traffic
from tests.running import LOOPBACK, Stack
from tests.smtp_sink import Sink
from tests.world import World

pytestmark = pytest.mark.faults

CUTS = int(os.environ.get("POWER_CUTS", "2"))
START_SECONDS = 12
END_SECONDS = 120


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


@pytest.fixture
def furnished() -> Iterator[Stack]:
    """A Lazaret that can be furnished and moved."""
    stack = Stack()
    yield stack
    stack.remove()


def test_nothing_is_lost_however_often_all_processes_are_cut(furnished: Stack, sink: Sink) -> None:  # Q05
    if obstacle := find_obstacle():
        pytest.skip(f"no file system to stop: {obstacle}")
    furnish(furnished, sink, LOOPBACK)
    with closing(CutProcesses(furnished.directory)) as cut:
        check_cuts(cut, World(cut.stack, sink), CUTS, "processes")


def furnish(stack: Stack, sink: Sink, sink_host: str) -> None:
    """Tables and a provider; stopped when that is done."""
    stack.start("--empty")
    stack.wait_ready()
    World(stack, sink, sink_host=sink_host).provide("acme", "acme.test", users=[RECIPIENT])
    assert stack.stop() == 0


def check_cuts(cut: CutProcesses, world: World, cuts: int, component: str) -> None:
    log = cut.directory / "cuts.log"
    cut.power_on()
    with start_traffic(cut.port, log) as traffic:
        for number in range(1, cuts + 1):
            if number % 4:
                wait_for_mail(cut, traffic)
                time.sleep(random.uniform(0.2, 3))
            else:
                time.sleep(random.uniform(0, START_SECONDS))
            cut.cut_power()
            cut.power_on()
        wait_for_mail(cut, traffic)
        traffic.end(END_SECONDS)

    found = Reckoning(world, log)
    print(
        f"component={component} cycles={cuts} sent={len(found.tried)} taken={len(found.taken)}"
        f" lost {len(found.lost)} doubled {found.extra.total()}"
    )
    found.check(traffic, most_doubled=cuts)


def wait_for_mail(cut: CutProcesses, traffic: Traffic) -> None:
    """Until a message is taken that was not yet."""
    now = time.monotonic()
    cut.wait_until(lambda: traffic.has_taken_since(now))
