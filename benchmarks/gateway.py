"""Replay a directory of messages at a running gateway, and say how fast it took them.

    .venv/bin/python benchmarks/gateway.py DIR --to bob@alpha.test --connect 127.0.0.1:2525 --sessions 20 --count 5000

Every message goes as one transaction (MAIL, RCPT and DATA pipelined, as Postfix does); each session keeps its
connection. Times run from the last octet of a message to its final reply. With `--pid` (any number of times) the
processor time that those processes and their children used is shown, by message.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

LINE_END = re.compile(rb"\r\n|\r|\n")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Result:
    """What the sessions saw."""

    seconds: list[float] = field(default_factory=list)  # from the end of DATA to its reply
    replies: Counter[str] = field(default_factory=Counter)


def read_messages(directory: Path, limit: int) -> list[bytes]:
    """Up to `limit` messages as they go over the wire: CRLF, dot-stuffed, with their end."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())[:limit]
    return [make_wire(path.read_bytes()) for path in files]


def make_wire(raw: bytes) -> bytes:
    raw = LINE_END.sub(b"\r\n", raw)
    if raw.startswith((b"From ", b">From ")):  # the line of an mbox, no header
        raw = raw.partition(b"\r\n")[2]
    stuffed = (b"\r\n" + raw).replace(b"\r\n.", b"\r\n..")[2:]
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


async def read_reply(reader: asyncio.StreamReader) -> str:
    while True:
        line = await reader.readline()
        if not line:
            raise ConnectionResetError
        if line[3:4] != b"-":
            return line.decode("ascii", "replace")


async def run_session(
    options: argparse.Namespace, recipients: Iterator[str], work: Iterator[bytes], result: Result
) -> None:
    host, _, port = options.connect.rpartition(":")
    wire = b""
    while wire is not None:
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        await read_reply(reader)
        if options.client_ip:
            writer.write(f"XCLIENT ADDR={options.client_ip}\r\n".encode())
            await read_reply(reader)
        writer.write(b"EHLO benchmark.test\r\n")
        await read_reply(reader)
        for _ in range(options.messages_per_connection):
            wire = next(work, None)
            if wire is None:
                break
            await send(reader, writer, next(recipients), wire, result)
        writer.write(b"QUIT\r\n")
        writer.close()


async def send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recipient: str, wire: bytes, result: Result
) -> None:
    writer.write(f"MAIL FROM:<sender@benchmark.test>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
    replies = [await read_reply(reader) for _ in range(3)]
    if not replies[2].startswith("354"):
        result.replies[replies[1][:9].strip()] += 1
        writer.write(b"RSET\r\n")
        await read_reply(reader)
        return
    writer.write(wire)
    await writer.drain()
    began = time.perf_counter()
    reply = await read_reply(reader)
    result.seconds.append(time.perf_counter() - began)
    result.replies[reply[:3]] += 1


def read_cpu(pids: list[int]) -> dict[int, float]:
    """Seconds of processor time used so far by each process with its children."""
    used: dict[int, float] = dict.fromkeys(pids, 0.0)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        for pid in {int(path.parent.name), int(fields[1])} & set(pids):
            own = sum(map(int, fields[11:13]))
            of_ended_children = sum(map(int, fields[13:15])) if pid == int(path.parent.name) else 0
            used[pid] += (own + of_ended_children) / TICKS
    return used


def repeat(items: list[str]) -> Iterator[str]:
    while True:
        yield from items


def take(messages: list[bytes], count: int) -> Iterator[bytes]:
    for number in range(count):
        yield messages[number % len(messages)]


async def measure(options: argparse.Namespace, messages: list[bytes]) -> tuple[Result, float]:
    result, work, recipients = Result(), take(messages, options.count or len(messages)), repeat(options.to)
    began = time.perf_counter()
    await asyncio.gather(*(run_session(options, recipients, work, result) for _ in range(options.sessions)))
    return result, time.perf_counter() - began


def show(result: Result, seconds: float, cpu: dict[int, float]) -> None:
    times = sorted(result.seconds) or [0.0]
    total = result.replies.total()
    print(f"{total} messages in {seconds:.1f} s: {total / seconds:.0f} messages/s; replies {dict(result.replies)}")
    for percent in (50, 95, 99):
        print(f"p{percent} {times[min(len(times) * percent // 100, len(times) - 1)] * 1000:.1f} ms")
    for pid, used in cpu.items():
        print(f"process {pid}: {used * 1000 / max(total, 1):.2f} ms of processor time a message")
    print(f"this sender: {time.process_time() * 1000 / max(total, 1):.2f} ms of processor time a message")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--connect", default="127.0.0.1:2525")
    parser.add_argument("--to", action="append", required=True, help="a recipient; repeat it for several in turn")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--count", type=int, default=0, help="messages to send (default: each once)")
    parser.add_argument("--limit", type=int, default=100_000, help="messages to read of the directory")
    parser.add_argument("--messages-per-connection", type=int, default=100)
    parser.add_argument("--client-ip", default="", help="stated by XCLIENT, so that reverse DNS is looked up")
    parser.add_argument("--pid", type=int, action="append", default=[])
    options = parser.parse_args()
    messages = read_messages(options.directory, options.limit)
    before = read_cpu(options.pid)
    result, seconds = uvloop.run(measure(options, messages))
    show(result, seconds, {pid: used - before[pid] for pid, used in read_cpu(options.pid).items()})


if __name__ == "__main__":
    main()
