"""How the numbers of many processes become one: each writes its own to a file, every second; who is asked adds them up.

A process takes the first free place of its part (`gateway-1`, `gateway-2`, ...), which is a file that it locks. It goes
on from what stands there: so a gateway that is killed takes at most its last second of counting with it, no sum ever
falls, and there are as many files as there were processes at a time, after a thousand restarts too. Two copies are
written in turn, each with its checksum: one is whole whenever the process dies.

Why not the mmap mode of prometheus_client: its files are one a process id, for ever; each count there costs twice as
much; and a write to a mapped page can wait for a disk that is busy with the mail, on the event loop.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import itertools
import json
import logging
import os
import struct
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
STALE_SECONDS = 5.0  # gauges of a process that has not written for so long count no more
COPY_OCTETS = 1024 * 1024
HEAD = struct.Struct("<QII")  # turn, octets, CRC-32

Sample = tuple[str, str, tuple[tuple[str, str], ...]]  # family, name, labels
Numbers = dict[Sample, float]


class Tally:
    """Writes the numbers of this process, until `stop`. Counting goes on where nothing can be written."""

    def __init__(self, directory: Path, part: str, registry: CollectorRegistry) -> None:
        """Take a place. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name, self._file = _take_place(directory, part)
        self._registry = registry
        self._turn, _, numbers = _read(self._file)
        self._before = {sample: value for sample, value in numbers.items() if sample[1] != sample[0]}  # no gauges
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_for_ever, name="metrics", daemon=True)
        self.before_write: list[Callable[[], None]] = []

    def start(self) -> None:
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Write for the last time, and leave the place to another."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        self._write(with_gauges=False)
        os.close(self._file)

    def _write_for_ever(self) -> None:
        failed = False
        while not self._ended.wait(WRITE_SECONDS):
            try:
                self._write()
                failed = False
            except Exception as error:  # noqa: BLE001 - the edge of the thread
                if not failed:
                    log.warning("metrics_not_written process=%s error=%s", self.name, type(error).__name__)
                failed = True

    def _write(self, *, with_gauges: bool = True) -> None:
        for bring_up_to_date in self.before_write:
            bring_up_to_date()
        numbers = dict(self._before)
        for sample, value in _collect(self._registry):
            if with_gauges or sample[1] != sample[0]:
                numbers[sample] = numbers.get(sample, 0.0) + value
        rows = [[family, name, dict(labels), value] for (family, name, labels), value in numbers.items()]
        body = json.dumps({"at": time.monotonic(), "rows": rows}).encode()
        if len(body) > COPY_OCTETS - HEAD.size:
            raise ValueError("too many numbers")
        turn = self._turn + 1
        copy = HEAD.pack(turn, len(body), zlib.crc32(body)) + body
        if os.pwrite(self._file, copy, turn % 2 * COPY_OCTETS) < len(copy):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._turn = turn  # not before: the next one, cut short too, would be written over the last that is whole


def _take_place(directory: Path, part: str) -> tuple[str, int]:
    for number in itertools.count(1):
        name = f"{part}-{number}"
        file = os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return name, file
    raise AssertionError


def _collect(registry: CollectorRegistry) -> Iterator[tuple[Sample, float]]:
    for family in registry.collect():
        for sample in family.samples:
            if sample.name != f"{family.name}_created":  # an addition's beginning says nothing
                yield (family.name, sample.name, tuple(sample.labels.items())), sample.value


def _read(file: int) -> tuple[int, float, Numbers]:
    """The newest whole copy: its turn, when it was written (by the machine's monotonic clock), its numbers."""
    copies = (_read_copy(os.pread(file, COPY_OCTETS, offset)) for offset in (0, COPY_OCTETS))
    turn, body = max((copy for copy in copies if copy), default=(0, None))
    if body is None:
        return 0, float("-inf"), {}
    found: dict[str, Any] = json.loads(body)
    numbers = {(family, name, tuple(labels.items())): value for family, name, labels, value in found["rows"]}
    return turn, found["at"], numbers


def _read_copy(octets: bytes) -> tuple[int, bytes] | None:
    if len(octets) < HEAD.size:
        return None
    turn, size, checksum = HEAD.unpack_from(octets)
    body = octets[HEAD.size : HEAD.size + size]
    return (turn, body) if len(body) == size and zlib.crc32(body) == checksum and body else None


def add_up(directory: Path, registry: CollectorRegistry, *, highest: frozenset[str] = frozenset()) -> list[Metric]:
    """The metrics of the registry with the numbers of all processes, those that have ended included.

    A gauge is added up over the processes that live; of those in `highest`, the highest is told.
    """
    gauges = {family.name for family in registry.collect() if family.type == "gauge"}
    sums: dict[str, Numbers] = defaultdict(dict)
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        is_alive, numbers = _read_place(path)
        for sample, value in numbers.items():
            family = sample[0]
            if family in gauges and not is_alive:
                continue
            known = sums[family].get(sample, 0.0)
            sums[family][sample] = max(known, value) if family in highest else known + value
    return [_fill(family, sums[family.name]) for family in registry.collect()]


def _read_place(path: Path) -> tuple[bool, Numbers]:
    file = os.open(path, os.O_RDONLY)
    try:
        _, at, numbers = _read(file)
    finally:
        os.close(file)
    return 0 <= time.monotonic() - at <= STALE_SECONDS, numbers


def _fill(family: Metric, numbers: Numbers) -> Metric:
    filled = Metric(family.name, family.documentation, family.type)
    for (_, name, labels), value in numbers.items():
        filled.add_sample(name, dict(labels), value)
    return filled
