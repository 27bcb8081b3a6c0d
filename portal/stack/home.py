"""LAZARET_HOME: one running Lazaret at a time, what it runs, and what a killed one left over."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from portal.stack.process import StackError

PATIENCE_SECONDS = 12


class RunningAlready(StackError):
    """Another one holds this LAZARET_HOME."""


class Home:
    """The directory of one Lazaret, locked while the object lives and its process with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "log"
        self.state_file = path / "state.json"
        self.environment_file = path / "lazaret.env"
        self.lock: TextIO | None = None
        self.state: dict[str, Any] = {}

    def open(self) -> None:
        """Make the directory, lock it and end what a killed run left. Raises StackError with the sentence to show."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
            self.logs.mkdir(exist_ok=True, mode=0o700)
            self.lock = (self.path / "run.lock").open("a+")
        except OSError as error:
            raise StackError(f"LAZARET_HOME is {self.path}, which cannot be written: {error.strerror}.") from None
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunningAlready(self._describe_other()) from None
        self.state = self._read_state()
        end_left_over(self.state.get("children", {}))
        self.environment_file.unlink(missing_ok=True)  # of the last run; settings would read it
        shutil.rmtree(self.path / "metrics", ignore_errors=True)  # counting begins anew with each run
        self._begin()

    def record(self, name: str, pid: int | None) -> None:
        """Write down a child that runs now, or (None) that it ended."""
        children = self.state["children"]
        if pid is None:
            children.pop(name, None)
        else:
            children[name] = [pid, find_start(pid)]
        self.write_state()

    def write_state(self) -> None:
        temporary = self.state_file.with_suffix(".new")
        temporary.write_text(json.dumps(self.state, indent=1))
        temporary.replace(self.state_file)

    def write_environment(self, values: dict[str, str]) -> None:
        """For `manage.py` in another terminal: where the servers are. Holds passwords: 0600."""
        temporary = self.environment_file.with_suffix(".new")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.writelines(f"{name}={json.dumps(value)}\n" for name, value in values.items())
        temporary.replace(self.environment_file)

    def close(self) -> None:
        """Nothing runs any more."""
        self.environment_file.unlink(missing_ok=True)
        self.state |= {"pid": None, "children": {}}
        self.write_state()

    def _begin(self) -> None:
        self.state = {"pid": os.getpid(), "ports": self.state.get("ports", {}), "children": {}, "portal": ""}
        self.write_state()

    def _read_state(self) -> dict[str, Any]:
        try:
            found = json.loads(self.state_file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _describe_other(self) -> str:
        other = self._read_state()
        where = f", portal at {other['portal']}" if other.get("portal") else ""
        return f"Lazaret is running already in {self.path} (process {other.get('pid')}{where})."


def find_start(pid: int) -> float:
    """When a process began: with its number, its identity. 0 when it is gone."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def end_left_over(children: dict[str, list[float]]) -> None:
    """End children of a run that was killed: in an orderly way, then by force. Numbers used anew are not touched."""
    found = [(name, int(pid)) for name, (pid, start) in children.items() if start and find_start(int(pid)) == start]
    for name, pid in found:
        _signal(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
    processes = [process for _, pid in found if (process := _find(pid))]
    _, stubborn = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    for process in stubborn:
        _signal(process.pid, signal.SIGQUIT if process.name() == "postgres" else signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=PATIENCE_SECONDS)
    for _, pid in found:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _find(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
