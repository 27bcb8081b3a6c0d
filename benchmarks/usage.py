"""How much processor time groups of processes use: a process and whatever it starts, by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import psutil

SECONDS = 0.25  # between two looks: what a process uses after the last one before its end is not seen
QUIET = 0.08  # of one core: below it nothing is under way
QUIET_SECONDS = 1.0
OUR_PARTS = ("gateway", "courier", "gunicorn", "celery", "supervisor")
Key = tuple[int, float]


def name_group(process: psutil.Process) -> str:
    """The name that people know it by: of ours the part, of others the program."""
    words = process.cmdline()
    if "python" in (words[0] if words else ""):
        text = " ".join(words[1:6])
        return next((part for part in OUR_PARTS if part in text), "python")
    name = process.name()
    return "postgres" if name.startswith("postgres") else name


class Usage:
    """Watches processes and all that they start. `groups` is seconds of processor time by name, since the start."""

    def __init__(self, roots: Iterable[int]) -> None:
        self.roots = [psutil.Process(pid) for pid in roots]
        self.names: dict[Key, str] = {}
        self.used: dict[Key, float] = {}
        self.first: dict[Key, float] = {}
        self.stopped = threading.Event()
        self.busy_at = time.monotonic()
        self.look()
        self.first = dict(self.used)
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while not self.stopped.wait(SECONDS):
            before = sum(self.used.values())
            self.look()
            if sum(self.used.values()) - before > QUIET * SECONDS:
                self.busy_at = time.monotonic()

    def look(self) -> None:
        for process in self.list_processes():
            key = process.pid, process.create_time()
            try:
                if key not in self.names:
                    self.names[key] = name_group(process)
                times = process.cpu_times()
            except psutil.Error:
                continue
            self.used[key] = times.user + times.system

    def list_processes(self) -> list[psutil.Process]:
        found = []
        for root in self.roots:
            try:
                found += [root, *root.children(recursive=True)]
            except psutil.Error:
                continue
        return found

    def is_quiet(self) -> bool:
        return time.monotonic() - self.busy_at > QUIET_SECONDS

    def stop(self) -> dict[str, float]:
        self.stopped.set()
        self.thread.join()
        self.look()
        groups: dict[str, float] = {}
        for key, used in self.used.items():
            groups[self.names[key]] = groups.get(self.names[key], 0.0) + used - self.first.get(key, 0.0)
        return dict(sorted(groups.items(), key=lambda item: -item[1]))
