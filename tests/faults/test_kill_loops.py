"""Any process may be killed at any moment, again and again, while mail comes: nothing answered 250 is lost, and a
courier that is killed doubles at most what it had just handed over.

A round kills each component once, at a random moment, and the supervisor starts it again. KILL_ROUNDS says how many (5;
for the long run 50 or more), KILL_COMPONENTS which ones (all, with commas between them). A message belongs to the
component that was killed next after its first try.
"""

from __future__ import annotations

import bisect
import os
import random
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import pytest

from tests.faults.ground import wait_until
from tests.faults.reckoning import Reckoning, start_traffic
from tests.faults.traffic import Traffic
from tests.world import World

pytestmark = pytest.mark.faults

ROUNDS = int(os.environ.get("KILL_ROUNDS", "5"))
COMPONENTS = os.environ.get("KILL_COMPONENTS", "gateway,courier,postgres,valkey,worker,web,run").split(",")
DOUBLED_PER_KILL = {"courier": 1, "run": 1}  # `run` takes its courier with it
BACK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Cycle:
    component: str
    killed_at: float


def test_nothing_is_lost_however_often_processes_are_killed(world: World):  # Q01 Q02 Q03 Q04 Q07, reference 11.1
    log = world.stack.directory / "kills.log"
    cycles: list[Cycle] = []
    with start_traffic(world.stack.smtp[1], log) as traffic:
        for _ in range(ROUNDS):
            for component in COMPONENTS:
                time.sleep(random.uniform(0.2, 1.5))
                cycles.append(Cycle(component, time.monotonic()))
                kill(world, component)
                back_at = time.monotonic()
                wait_until(lambda since=back_at: traffic.has_taken_since(since), BACK_SECONDS)
        traffic.end(BACK_SECONDS)
    world.stack.wait_ready()
    found = Reckoning(world, log)
    report(cycles, traffic, found)
    found.check(traffic, most_doubled=sum(DOUBLED_PER_KILL.get(cycle.component, 0) for cycle in cycles))


def kill(world: World, component: str) -> None:
    if component == "run":
        assert world.stack.process
        world.stack.process.kill()
        world.stack.process.wait()
        world.stack.start("--empty")
        world.stack.wait_ready()
        return
    pids = world.stack.pids(component)
    pid = random.choice(pids)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in world.stack.pids(component), BACK_SECONDS)  # the supervisor has started another


def report(cycles: list[Cycle], traffic: Traffic, found: Reckoning) -> None:
    """A line for each component."""
    moments = [cycle.killed_at for cycle in cycles]

    def find_component(sender: str) -> str:
        return cycles[min(bisect.bisect(moments, traffic.tried[sender]), len(cycles) - 1)].component

    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sender in traffic.tried:
        sums[find_component(sender)] += Counter(
            sent=1, taken=sender in found.taken, lost=sender in found.lost, doubled=found.extra[sender]
        )
    for component in COMPONENTS:
        counted = sums[component]
        print(
            f"component={component} cycles={sum(cycle.component == component for cycle in cycles)}"
            f" sent={counted['sent']} taken={counted['taken']} lost {counted['lost']} doubled {counted['doubled']}"
        )
