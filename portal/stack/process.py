"""What the stack runs: a command, as whom, with which environment; and that nothing outlives the one who started it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2), Linux only
SERVER_PORTS = range(20000, 32000)
_given: set[int] = set()  # by `find_free_port`, so that what is remembered of one server is never held of the next


class StackError(Exception):
    """The stack cannot start; the text is a sentence for the person who started it."""


@dataclass(frozen=True)
class Launch:
    """A program to run. `stop_signal` asks for an orderly end, also when the parent dies; `insist_signal` insists."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    user: pwd.struct_passwd | None = None
    sockets: tuple[int, ...] = ()  # file descriptors that it takes over
    stop_signal: signal.Signals = signal.SIGTERM
    insist_signal: signal.Signals = signal.SIGKILL

    def options(self) -> dict[str, Any]:
        """For subprocess and asyncio alike. A session of its own: the terminal's Ctrl-C reaches only the supervisor."""
        options: dict[str, Any] = {
            "env": dict(self.environment),
            "cwd": self.directory,
            "stdin": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
            "start_new_session": True,
            "pass_fds": self.sockets,
            "preexec_fn": die_with_parent(self.stop_signal),
        }
        if self.user:
            options |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return options

    def spawn(self) -> subprocess.Popen[bytes]:
        with open_log(self.log) as log:
            return subprocess.Popen(self.command, stdout=log, **self.options())


def open_log(path: Path) -> Any:
    """Append to a log that only its owner reads."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def die_with_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    """A function for the child, between fork and exec: when the parent is killed, the kernel sends `stop_signal`."""
    if sys.platform != "linux":
        return None  # elsewhere the next start ends what was left over
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return tie


def find_package(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(f"The package {name} is not installed; set DATABASE_URL and BROKER_URL instead.")
    return Path(spec.submodule_search_locations[0])


def find_free_port(wanted: int = 0) -> int:
    """`wanted` where it is free on loopback, else another that this process was not given before; below the range that
    outgoing connections take theirs of.
    """
    tried = [wanted] if wanted else []
    drawn = secrets.SystemRandom().sample(SERVER_PORTS, 50)  # in no order, unlike a set of numbers
    for port in [*tried, *(port for port in drawn if port not in _given), 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                _given.add(found := int(probe.getsockname()[1]))
                return found
    raise StackError("There is no free port on 127.0.0.1.")
