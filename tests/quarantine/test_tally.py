"""The numbers of many processes, added up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from quarantine import tally
from quarantine.tally import Tally, add_up
from tests.full_disk import limited_files

COUNT_FOR_EVER = """
import sys, time
from pathlib import Path
from tests.quarantine.test_tally import Numbers
numbers = Numbers(Path(sys.argv[1]), "gateway")
numbers.count(int(sys.argv[2]))
numbers.tally.start()
print(numbers.tally.name, flush=True)
time.sleep(600)
"""


class Numbers:
    """A process with some numbers, and what all of them say together."""

    def __init__(self, directory: Path, part: str) -> None:
        self.registry = CollectorRegistry()
        self.mail = Counter("mail", "Mail.", ["cause"], registry=self.registry)
        self.seconds = Histogram("seconds", "Seconds.", buckets=(1, 10), registry=self.registry)
        self.open = Gauge("open", "Open.", registry=self.registry)
        self.lag = Gauge("lag", "Lag.", registry=self.registry)
        self.tally = Tally(directory, part, self.registry)

    def count(self, number: int) -> None:
        self.mail.labels("loop").inc(number)
        self.seconds.observe(number)
        self.open.set(number)
        self.lag.set(number)
        self.tally._write()


def read(directory: Path, numbers: Numbers) -> dict[str, float]:
    families = add_up(directory, numbers.registry, highest=frozenset({"lag"}))
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


def test_numbers_of_several_processes_are_added_up(tmp_path: Path) -> None:
    for number in (2, 5):
        last = Numbers(tmp_path, "gateway")
        last.count(number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway-1", "gateway-2"]
    assert read(tmp_path, last) == {
        "mail_total loop": 7,
        "seconds_bucket 1.0": 0,
        "seconds_bucket 10.0": 2,
        "seconds_bucket +Inf": 2,
        "seconds_count": 2,
        "seconds_sum": 7,
        "open": 7,
        "lag": 5,
    }


def test_process_goes_on_from_what_the_last_one_in_its_place_had_counted(tmp_path: Path) -> None:
    for _ in range(100):
        numbers = Numbers(tmp_path, "courier")
        numbers.count(3)
        numbers.tally.start()
        numbers.tally.stop()
    assert read(tmp_path, numbers)["mail_total loop"] == 300
    assert [path.name for path in tmp_path.iterdir()] == ["courier-1"]


def test_gauges_of_a_process_that_ended_count_no_more(tmp_path: Path) -> None:
    ended, living = Numbers(tmp_path, "gateway"), Numbers(tmp_path, "gateway")
    ended.count(40)
    living.count(1)
    ended.tally.start()
    ended.tally.stop()
    assert read(tmp_path, living)["open"] == 1
    assert read(tmp_path, living)["mail_total loop"] == 41


def test_gauges_of_a_process_that_is_silent_count_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = Numbers(tmp_path, "gateway")
    numbers.count(4)
    monkeypatch.setattr(tally, "STALE_SECONDS", 0.0)
    time.sleep(0.001)
    assert "open" not in read(tmp_path, numbers)
    assert read(tmp_path, numbers)["mail_total loop"] == 4


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 40])
def test_copy_torn_by_a_kill_leaves_the_one_before(tmp_path: Path, offset: int) -> None:
    numbers = Numbers(tmp_path, "gateway")
    numbers.count(1)
    numbers.count(1)
    turn = numbers.tally._turn
    with (tmp_path / "gateway-1").open("r+b") as file:
        file.seek(turn % 2 * tally.COPY_OCTETS + offset)
        file.write(b"\xff" * 16)
    assert read(tmp_path, numbers)["mail_total loop"] == 1


def test_sum_does_not_fall_on_a_full_disk(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path, "gateway")
    numbers.count(3)
    numbers.count(4)
    for _ in range(3):
        with limited_files(octets=100), pytest.raises(OSError, match="space|large"):
            numbers.count(1)
        assert read(tmp_path, numbers)["mail_total loop"] == 7
    numbers.count(1)
    assert read(tmp_path, numbers)["mail_total loop"] == 11


def test_sum_does_not_fall_when_processes_are_killed(tmp_path: Path) -> None:
    reader = Numbers(tmp_path, "web")
    for round_ in range(1, 4):
        command = [sys.executable, "-c", COUNT_FOR_EVER, str(tmp_path), "10"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout
            assert child.stdout.readline() == "gateway-1\n"
            os.kill(child.pid, signal.SIGKILL)
        assert read(tmp_path, reader)["mail_total loop"] == 10 * round_
