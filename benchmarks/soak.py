"""Send mail for hours, and say whether anything grows: memory, open files, the time to a reply.

    .venv/bin/python benchmarks/soak.py --connect 127.0.0.1:2525 --to bob@alpha.test --watch $PID_OF_RUN \\
        --hours 24 --rate 400 [DIRECTORY or SET.tar.zst]

Every ten seconds as many messages as that rate makes are sent as fast as they are taken, then it waits. A line a
minute; at the end, or at Ctrl-C, by program, how its memory grew (a straight line through the second half of
the time) and its files, and the reply times of the first and the last quarter. Memory is what a process has for itself
alone. See gateway.py for `--clients` and `--local-clients`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from gateway import get_percentiles, read_targets
from letters import read_messages
from sender import Plan, Result, send_all
from usage import name_group

ROUND_SECONDS = 10.0
LINE_SECONDS = 60.0
WARM_UP = 0.5  # of the time: caches fill until then


@dataclass
class Line:
    """What was seen in a minute, and at its end."""

    hours: float
    waits: list[float] = field(default_factory=list)
    replies: Counter[str] = field(default_factory=Counter)
    octets: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        self.waits += result.waits
        self.replies += result.replies

    def look(self, root: psutil.Process) -> None:
        """Sums over the processes of each program."""
        octets: defaultdict[str, int] = defaultdict(int)
        files: defaultdict[str, int] = defaultdict(int)
        for process in [root, *root.children(recursive=True)]:
            try:
                name = name_group(process)
                octets[name] += process.memory_full_info().uss
                files[name] += process.num_fds()
            except psutil.Error:
                continue  # it has just ended
        self.octets, self.files = dict(octets), dict(files)

    def show(self) -> None:
        times = get_percentiles(self.waits)
        memory = ", ".join(f"{name} {octets / 2**20:.0f}" for name, octets in self.octets.items())
        print(
            f"{self.hours:6.2f} h {dict(self.replies)} p50 {times[50]:.1f} p99 {times[99]:.1f} ms; MiB: {memory}",
            end="",
        )
        print(f"; files: {', '.join(f'{name} {number}' for name, number in self.files.items())}", flush=True)


def soak(plan: Plan, messages: list[bytes], root: psutil.Process, *, hours: float, rate: float) -> list[Line]:
    """The lines of so many hours, or of those until Ctrl-C."""
    began = time.monotonic()
    lines: list[Line] = []
    with contextlib.suppress(KeyboardInterrupt):
        while (now := time.monotonic()) - began < hours * 3600:
            line = Line((now - began) / 3600)
            while time.monotonic() - now < LINE_SECONDS:
                due = time.monotonic() + ROUND_SECONDS
                line.add(send_all(plan, messages, round(rate * ROUND_SECONDS)))
                time.sleep(max(0.0, due - time.monotonic()))
            line.look(root)
            line.show()
            lines.append(line)
    return lines


def sum_up(lines: list[Line]) -> None:
    steady = lines[round(len(lines) * WARM_UP) :]
    for name in steady[-1].octets:
        seen = [(line.hours, line.octets[name], line.files[name]) for line in steady if name in line.octets]
        if len(seen) > 1:
            hours, octets, files = zip(*seen, strict=True)
            slope = statistics.linear_regression(hours, octets).slope / statistics.mean(octets)
            print(f"{name}: memory {slope:+.2%} an hour, files {files[0]} then {files[-1]}, {max(files)} at most")
    quarter = max(1, len(lines) // 4)
    for name, part in (("first", lines[:quarter]), ("last", lines[-quarter:])):
        times = get_percentiles([wait for line in part for wait in line.waits])
        print(f"{name} quarter: " + ", ".join(f"p{percent} {value:.1f} ms" for percent, value in times.items()))
    print("replies", dict(sum((line.replies for line in lines), Counter())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", help="a directory or a .tar.zst (default: made here)")
    parser.add_argument("--connect", required=True, metavar="HOST:PORT")
    parser.add_argument("--to", action="append", required=True)
    parser.add_argument("--watch", type=int, required=True, metavar="PID")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rate", type=float, default=400.0, help="messages a second")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--messages-per-connection", type=int, default=100)
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--local-clients", action="store_true")
    options = parser.parse_args()
    [(host, port)] = read_targets([options.connect]).values()
    chosen = {key: getattr(options, key) for key in ("sessions", "messages_per_connection", "clients", "local_clients")}
    plan = Plan(host, port, tuple(options.to), **chosen)
    messages = read_messages(options.source)
    sum_up(soak(plan, messages, psutil.Process(options.watch), hours=options.hours, rate=options.rate))


if __name__ == "__main__":
    main()
