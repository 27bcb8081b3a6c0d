"""What became of the mail of `tests.faults.traffic`, when all has calmed down: what was lost, what is there twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.faults.ground import wait_until
from tests.faults.traffic import Traffic, read_log
from tests.world import TRACE_HEADER, World, make_mail, make_spam

RECIPIENT = "kit@acme.test"
ENDED = ("delivered", "quarantined")
END_SECONDS = 240


def start_traffic(port: int, log: Path) -> Traffic:
    """Clients of which a few hang up before they hear their 250; one message in five is to be held."""
    return Traffic(
        port, log, recipients=(RECIPIENT,), clients=4, pause=0.05, lose_replies=0.05, make=make, name="k"
    )  # fmt: skip


def make(name: str) -> bytes:
    return (make_spam if is_held(name) else make_mail)(name)


def is_held(name: str) -> bool:
    """One in five is."""
    return int(name.partition("@")[0].rpartition("-")[2]) % 5 == 0


class Reckoning:
    """Made when the traffic has ended and the courier has nothing more to do."""

    def __init__(self, world: World, log: Path) -> None:
        self.tried, self.taken = read_log(log)
        wait_for_end(world)
        self.stored = count_stored(world)
        self.delivered = Counter(message.sender.strip("<>") for message in world.sink.messages)
        self.lost = {sender for sender in self.taken if not self.stored[sender] or not self._has_arrived(sender)}
        self.extra = Counter(
            {sender: max(self.delivered[sender] - 1, self.stored[sender] - 1, 0) for sender in self.tried}
        )
        self.unknown = set(find_traces(world)) - set(list_traces(world))

    def check(self, traffic: Traffic, *, most_doubled: int) -> None:
        assert traffic.list_refusals() == []
        assert self.tried - self.taken == set()  # whoever is not told 250 comes again
        assert self.lost == set()
        assert max(self.stored.values()) == 1  # a 250 that was lost is recognised
        assert not [sender for sender in self.taken if is_held(sender) and self.delivered[sender]]
        assert self.extra.total() <= most_doubled
        assert self.unknown == set()  # nothing is delivered that nobody knows of

    def _has_arrived(self, sender: str) -> bool:
        return is_held(sender) or self.delivered[sender] > 0


def wait_for_end(world: World) -> None:
    """Until the courier has nothing more to do."""

    def is_done() -> bool:
        [(waiting,)] = world.rows(
            "SELECT count(*) FROM sp_acme.quarantine_message m JOIN sp_acme.quarantine_recipient r"
            " ON r.message_id = m.id WHERE m.sender LIKE 'k-%' AND r.state IN ('delivering', 'deferred')"
        )
        return bool(waiting == 0)

    wait_until(is_done, END_SECONDS)


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
