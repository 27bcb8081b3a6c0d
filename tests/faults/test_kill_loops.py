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
from tests.faults.traffic import Traffic, read_log
from tests.world import TRACE_HEADER, World, make_mail, make_spam

pytestmark = pytest.mark.faults

ROUNDS = int(os.environ.get("KILL_ROUNDS", "5"))
COMPONENTS = os.environ.get("KILL_COMPONENTS", "gateway,courier,postgres,valkey,worker,web,run").split(",")
DOUBLED_PER_KILL = {"courier": 1, "run": 1}  # `run` takes its courier with it
RECIPIENT = "kit@acme.test"
ENDED = ("delivered", "quarantined")
BACK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Cycle:
    component: str
    killed_at: float


def test_nothing_is_lost_however_often_processes_are_killed(world: World):  # Q01 Q02 Q03 Q04 Q07, reference 11.1
    log = world.stack.directory / "kills.log"
    cycles: list[Cycle] = []
    with Traffic(
        world.stack.smtp[1], log, recipients=(RECIPIENT,), clients=4, pause=0.05, lose_replies=0.05, make=make, name="k"
    ) as traffic:
        for _ in range(ROUNDS):
            for component in COMPONENTS:
                time.sleep(random.uniform(0.2, 1.5))
                cycles.append(Cycle(component, time.monotonic()))
                kill(world, component)
                back_at = time.monotonic()
                wait_until(lambda since=back_at: traffic.has_taken_since(since), BACK_SECONDS)
        traffic.end(BACK_SECONDS)
    world.stack.wait_ready()
    tried, taken = read_log(log)
    wait_for_end(world, taken)

    stored = count_stored(world)
    delivered = Counter(message.sender.strip("<>") for message in world.sink.messages)
    lost = {sender for sender in taken if not stored[sender] or (not delivered[sender] and not is_held(sender))}
    extra = Counter({sender: max(delivered[sender] - 1, stored[sender] - 1, 0) for sender in tried})
    report(cycles, traffic, taken, lost, extra)
    assert traffic.list_refusals() == []
    assert tried - taken == set()  # whoever is not told 250 comes again
    assert lost == set()
    assert max(stored.values()) == 1  # a 250 that was lost is recognised
    assert not [sender for sender in taken if is_held(sender) and delivered[sender]]
    assert extra.total() <= sum(DOUBLED_PER_KILL.get(cycle.component, 0) for cycle in cycles)
    assert set(find_traces(world)) <= set(list_traces(world))  # nothing is delivered that nobody knows of


def make(name: str) -> bytes:
    return (make_spam if is_held(name) else make_mail)(name)


def is_held(name: str) -> bool:
    """One in five is."""
    return int(name.partition("@")[0].rpartition("-")[2]) % 5 == 0


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


def wait_for_end(world: World, senders: set[str]) -> None:
    """Until the courier has nothing more to do about these."""

    def is_done() -> bool:
        [(waiting,)] = world.rows(
            "SELECT count(*) FROM sp_acme.quarantine_message m JOIN sp_acme.quarantine_recipient r"
            " ON r.message_id = m.id WHERE m.sender = ANY(%s) AND r.state IN ('delivering', 'deferred')",
            list(senders),
        )
        return bool(waiting == 0)

    wait_until(is_done, 240)


def count_stored(world: World) -> Counter[str]:
    """How often the content of a message is there, by sender."""
    rows = world.rows(
        "SELECT m.sender, count(DISTINCT m.id) FROM sp_acme.quarantine_message m"
        " JOIN sp_acme.quarantine_recipient r ON r.message_id = m.id"
        " WHERE m.sender LIKE 'k-%%' AND r.state = ANY(%s) GROUP BY 1",
        [*ENDED, "delivering", "deferred", "held"],
    )
    return Counter(dict(rows))


def find_traces(world: World) -> list[str]:
    found = [TRACE_HEADER.search(message.raw) for message in world.sink.messages if message.sender.startswith("<k-")]
    return [trace.group(1).decode() for trace in found if trace]


def list_traces(world: World) -> list[str]:
    return [trace for (trace,) in world.rows("SELECT trace_id FROM sp_acme.quarantine_message")]


def report(cycles: list[Cycle], traffic: Traffic, taken: set[str], lost: set[str], extra: Counter[str]) -> None:
    """A line for each component."""
    moments = [cycle.killed_at for cycle in cycles]

    def find_component(sender: str) -> str:
        return cycles[min(bisect.bisect(moments, traffic.tried[sender]), len(cycles) - 1)].component

    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sender in traffic.tried:
        sums[find_component(sender)] += Counter(
            sent=1, taken=sender in taken, lost=sender in lost, doubled=extra[sender]
        )
    for component in COMPONENTS:
        found = sums[component]
        print(
            f"component={component} cycles={sum(cycle.component == component for cycle in cycles)}"
            f" sent={found['sent']} taken={found['taken']} lost {found['lost']} doubled {found['doubled']}"
        )
