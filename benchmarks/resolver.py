"""Reverse look-ups a second of one process, and what one costs: addresses never seen before, and again from memory.

    .venv/bin/python benchmarks/resolver.py [--number 5000] [--together 20]

DNS is answered on loopback by benchmarks/name_server.py in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver

NAME_SERVER = Path(__file__).with_name("name_server.py")
START_SECONDS = 1.0


async def look_up_all(resolver: Resolver, addresses: Iterable[str], together: int) -> None:
    waiting = iter(addresses)

    async def work() -> None:
        for ip in waiting:
            await look_up_ptr(ip, resolver)

    await asyncio.gather(*(work() for _ in range(together)))


async def measure(resolver: Resolver, what: str, addresses: list[str], together: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    await look_up_all(resolver, addresses, together)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    number = len(addresses)
    sys.stdout.write(
        f"{what}: {number / wall:.0f} look-ups a second, {cpu / number * 1000:.3f} ms of processor time each\n"
    )


async def run(port: int, number: int, together: int) -> None:
    resolver = Resolver([("127.0.0.1", port)])
    addresses = [f"198.{18 + (one >> 16)}.{one >> 8 & 255}.{one & 255}" for one in range(number)]
    await measure(resolver, "asked", addresses, together)
    await measure(resolver, "from memory", addresses, together)
    sys.stdout.write(f"outcomes: {dict(resolver.counts)}\n")


def find_free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=5000)
    parser.add_argument("--together", type=int, default=20)
    options = parser.parse_args()
    port = find_free_port()
    server = subprocess.Popen([sys.executable, str(NAME_SERVER), f"127.0.0.1:{port}"])
    try:
        time.sleep(START_SECONDS)
        uvloop.run(run(port, options.number, options.together))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
