"""Replay mail at running gateways, in turn, and say how fast each took it and what it cost.

    .venv/bin/python benchmarks/gateway.py --connect lazaret=127.0.0.1:2525 --to bob@alpha.test \\
        --watch lazaret=$PID_OF_RUN --count 5000 [DIRECTORY or SET.tar.zst]

Any SMTP server can be named; with several, one run of each follows the other, `--runs` times over, and the last lines
compare the first with the rest. `--watch NAME=PID` (as often as you like) counts the processor time of that process and
all that it starts, by program; then a run ends when they are at rest, so that delivery is in the figures. `--ceiling`
measures this sender itself against Postfix's smtp-sink.

`reply` runs from the last octet of a message to its final reply, `whole` from its MAIL. `--clients N` gives each
connection another client address, never seen before, by XCLIENT: start benchmarks/name_server.py and the gateway with
LAZARET_DNS and LAZARET_XCLIENT (127.0.0.1), and every one of them is looked up. With `--local-clients` they are
connected from instead: all of 11.0.0.0/8 must be local then, as benchmarks/peer.sh has it.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path

from letters import read_messages
from sender import Plan, Result, send_all
from usage import Usage

REST_SECONDS = 120.0  # to wait for the rest at most
SINK = "smtp-sink"
Figures = dict[str, float]


def read_targets(words: list[str]) -> dict[str, tuple[str, int]]:
    found = {}
    for word in words:
        name, _, address = word.rpartition("=")
        host, _, port = address.rpartition(":")
        found[name or address] = host, int(port)
    return found


def run(name: str, plan: Plan, messages: list[bytes], *, count: int, roots: list[int]) -> Figures:
    usage = Usage(roots)
    began = time.monotonic()
    result = send_all(plan, messages, count)
    while roots and not usage.is_quiet() and time.monotonic() - began < result.wall + REST_SECONDS:
        time.sleep(0.05)
    groups = usage.stop()
    return show(name, result, max(usage.busy_at - began, result.wall), groups)


def show(name: str, result: Result, seconds: float, groups: Figures) -> Figures:
    """Print a run; what of it is compared is returned."""
    total = max(result.messages, 1)
    cost = sum(groups.values()) * 1000 / total
    waits = get_percentiles(result.waits)
    print(f"{name}: {result.messages} messages, {result.octets / total / 1024:.1f} KiB each, in {result.wall:.1f} s:")
    print(f"  {result.rate:.0f} messages/s; at rest after {seconds:.1f} s: {total / seconds:.0f} messages/s")
    print(f"  replies {dict(result.replies)}")
    print(f"  reply {tell(waits)}; whole {tell(get_percentiles(result.wholes))}")
    if groups:
        shares = ", ".join(f"{part} {used * 1000 / total:.2f}" for part, used in groups.items() if used > 0.005)
        print(f"  ms of processor time a message: {cost:.2f} ({shares}); this sender {result.cpu * 1000 / total:.2f}")
    else:
        print(f"  ms of processor time a message: this sender {result.cpu * 1000 / total:.2f}", flush=True)
    return {"messages/s": result.rate, "messages/s to rest": total / seconds, "cpu": cost, "p99": waits[99]}


def get_percentiles(seconds: list[float]) -> dict[int, float]:
    """Milliseconds."""
    ordered = sorted(seconds) or [0.0]
    return {percent: ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] * 1000 for percent in (50, 95, 99)}


def tell(percentiles: dict[int, float]) -> str:
    return " ".join(f"p{percent} {value:.1f} ms" for percent, value in percentiles.items())


def compare(figures: dict[str, list[Figures]]) -> None:
    """The medians of the first against those of each other."""
    medians = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in figures.items()
    }
    for name, median in medians.items():
        print(f"median of {len(figures[name])}: {name}", end=" ")
        print(" ".join(f"{key}={value:.2f}" for key, value in median.items()))
    first, *others = medians
    for other in others:
        for key in ("messages/s", "messages/s to rest"):
            print(f"{first} takes {medians[first][key] / medians[other][key]:.2f} x the {key} of {other}")
        if medians[first]["cpu"]:
            print(f"{other} uses {medians[other]['cpu'] / medians[first]['cpu']:.2f} x the processor time of {first}")


def measure_ceiling(plan: Plan, messages: list[bytes], count: int) -> None:
    """How fast this sender is when the other side does nothing."""
    if not (program := shutil.which(SINK)):
        return print(f"the sender's ceiling is not measured: there is no {SINK} here (Debian: postfix)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with subprocess.Popen([program, "-u", "nobody", f"127.0.0.1:{port}", "1000"]) as sink:
        time.sleep(0.5)
        alone = Plan(**{**vars(plan), "host": "127.0.0.1", "port": port, "clients": 0, "local_clients": False})
        run("ceiling", alone, messages, count=count, roots=[])
        sink.terminate()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", help="a directory or a .tar.zst (default: made here)")
    parser.add_argument("--connect", action="append", required=True, metavar="[NAME=]HOST:PORT")
    parser.add_argument("--to", action="append", required=True, help="a recipient; repeat it for several in turn")
    parser.add_argument("--watch", action="append", default=[], metavar="NAME=PID")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1, help="of this sender, which share the sessions")
    parser.add_argument("--count", type=int, default=0, help="messages to send (default: each once)")
    parser.add_argument("--skip", type=int, default=0, help="messages at the beginning that are not sent")
    parser.add_argument("--messages-per-connection", type=int, default=100)
    parser.add_argument("--recipients-per-message", type=int, default=1)
    parser.add_argument("--clients", type=int, default=0, help="client addresses, another for each connection")
    parser.add_argument("--local-clients", action="store_true", help="connect from them instead of stating them")
    parser.add_argument("--ceiling", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse()
    targets, messages = read_targets(options.connect), read_messages(options.source, skip=options.skip)
    roots = defaultdict(list)
    for word in options.watch:
        name, _, pid = word.rpartition("=")
        roots[name or next(iter(targets))].append(int(pid))
    shared = ("sessions", "processes", "messages_per_connection", "recipients_per_message", "clients", "local_clients")
    plans = {
        name: Plan(host, port, tuple(options.to), **{key: getattr(options, key) for key in shared})
        for name, (host, port) in targets.items()
    }
    try:
        measure_all(options, plans, messages, roots)
    except OSError as error:
        raise SystemExit(f"no answer: {error}") from error


def measure_all(
    options: argparse.Namespace, plans: dict[str, Plan], messages: list[bytes], roots: dict[str, list[int]]
) -> None:
    count = options.count or len(messages)
    if options.ceiling:
        measure_ceiling(next(iter(plans.values())), messages, count)
    figures: dict[str, list[Figures]] = defaultdict(list)
    for _ in range(options.runs):
        for name, plan in plans.items():
            figures[name].append(run(name, plan, messages, count=count, roots=roots[name]))
    compare(figures)


if __name__ == "__main__":
    main()
