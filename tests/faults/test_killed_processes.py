"""Any process may be killed at any moment: nothing that was answered 250 is lost, and little is doubled."""

from __future__ import annotations

import os
import signal
import time
import uuid

import pytest

from tests.world import World, make_mail, make_spam, send_all

pytestmark = pytest.mark.faults

MESSAGES = 500
ENDED = ("delivered", "quarantined")


@pytest.mark.parametrize("part", ["gateway", "courier", "web", "worker", "beat", "postgres", "valkey", "run"])
def test_a_killed_process_loses_nothing(world: World, part: str):
    mark = uuid.uuid4().hex[:8]
    letters = [
        ((make_spam if number % 5 == 0 else make_mail)(f"{mark} {number}"), "a@sender.example", "kit@acme.test")
        for number in range(MESSAGES)
    ]

    def watch(done: int) -> None:
        if done == MESSAGES // 3:
            kill(world, part)

    sent = send_all(world.stack.smtp, letters, connections=8, watch=watch)
    if part == "run":
        world.stack.start("--empty")
    world.stack.wait_ready()

    accepted = {one.trace_id for one in sent if one.code == 250}
    assert len(accepted) >= MESSAGES // 3
    assert not [one for one in sent if 500 <= one.code < 600]
    wait_for_end(world, accepted)
    held = find_held(world, accepted)
    delivered = world.find_delivered()
    lost = [trace for trace in accepted if trace not in held and trace not in delivered]
    doubled = sum(len(delivered.get(trace, [])) - 1 for trace in accepted if trace in delivered)
    print(f"{part}: accepted {len(accepted)}, lost {len(lost)}, doubled {doubled}")
    assert lost == []
    assert doubled <= 1
    assert held.isdisjoint(delivered)


def kill(world: World, part: str) -> None:
    if part == "run":
        assert world.stack.process
        world.stack.process.kill()
        world.stack.process.wait()
    else:
        os.kill(world.stack.pids(part)[0], signal.SIGKILL)


def wait_for_end(world: World, traces: set[str]) -> None:
    """Until the courier has nothing more to do about these."""
    deadline = time.monotonic() + 90
    while True:
        [(waiting,)] = world.rows(
            "SELECT count(*) FROM sp_acme.quarantine_message m JOIN sp_acme.quarantine_recipient r"
            " ON r.message_id = m.id WHERE m.trace_id = ANY(%s) AND NOT r.state = ANY(%s)",
            list(traces),
            list(ENDED),
        )
        if not waiting:
            return
        assert time.monotonic() < deadline, f"{waiting} are still on their way"
        time.sleep(0.5)


def find_held(world: World, traces: set[str]) -> set[str]:
    rows = world.rows(
        "SELECT m.trace_id FROM sp_acme.quarantine_message m JOIN sp_acme.quarantine_recipient r"
        " ON r.message_id = m.id WHERE m.trace_id = ANY(%s) AND r.state = 'quarantined'",
        list(traces),
    )
    return {trace for (trace,) in rows}
