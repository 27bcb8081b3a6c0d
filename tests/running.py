"""A real Lazaret for tests: `./run` in a home and on ports of its own, which ends with pytest whatever happens."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from portal.stack.process import die_with_parent, find_free_port
from tests.servers import PREFIX

PROJECT = Path(__file__).resolve().parent.parent
FOREIGN = ("DATABASE_URL", "BROKER_URL", "CACHE_URL", "DJANGO_SETTINGS_MODULE")
LOOPBACK = "127.0.0.1"


class Stack:
    """One `./run`: start it, ask it, kill parts of it, stop it."""

    def __init__(self, home: Path | None = None, **settings: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.directory.chmod(0o755)
        self.home = home or self.directory / "home"
        self.smtp = (LOOPBACK, find_free_port())
        self.web_port = find_free_port()
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in FOREIGN and not name.startswith(("LAZARET_", "PYTEST_"))
        } | {
            "LAZARET_HOME": str(self.home),
            "LAZARET_SMTP": f"{LOOPBACK}:{self.smtp[1]}",
            "LAZARET_WEB": f"{LOOPBACK}:{self.web_port}",
            "LAZARET_XCLIENT": "127.0.0.0/8",
            **settings,
        }
        self.output_file = self.directory / "output"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """All that `./run` has printed."""
        return self.output_file.read_text() if self.output_file.exists() else ""

    def start(self, *arguments: str, cwd: Path | None = None) -> None:
        with self.output_file.open("ab") as output:
            self.process = subprocess.Popen(
                [str(PROJECT / "run"), *arguments],
                env=self.environment,
                cwd=cwd or self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=begin_as_at_a_terminal(),
            )

    def run_to_end(self, *arguments: str, seconds: float = 60) -> tuple[int, str]:
        """Start it where it is expected to end by itself; the exit status and what it printed."""
        self.start(*arguments)
        return self.wait_end(seconds), self.output

    def wait_end(self, seconds: float = 60) -> int:
        assert self.process
        return self.process.wait(timeout=seconds)

    def wait_ready(self, seconds: float = 240) -> None:
        """Until /healthz is 200 and `./run` has shown its table."""
        self.wait_until(lambda: "Ctrl-C stops" in self.output and self.health()[0] == 200, seconds)

    def wait_until(self, condition: Any, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process
            assert self.process.poll() is None, f"./run ended: {self.output}"
            assert time.monotonic() < deadline, f"not in {seconds} s; health {self.health()}; output:\n{self.output}"
            time.sleep(0.1)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON of /healthz; status 0 while nobody answers."""
        connection = http.client.HTTPConnection(LOOPBACK, self.web_port, timeout=10)
        try:
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException):
            return 0, {}
        finally:
            connection.close()

    def manage(self, *arguments: str, check: bool = True, stdin: str = "") -> str:
        """Run `manage.py` beside it; its standard output."""
        done = subprocess.run(
            [str(PROJECT / ".venv" / "bin" / "python"), "manage.py", *arguments],
            env=self.environment,
            cwd=PROJECT,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def pids(self, part: str = "") -> list[int]:
        """Processes of a part, such as gateway or postgres; all of them without a name."""
        children = json.loads((self.home / "state.json").read_text())["children"]
        return [pid for name, (pid, _) in sorted(children.items()) if not part or name.partition("-")[0] == part]

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL, *, all_of_it: bool = False) -> int:
        """Kill one process of a part (or all of them); the number of the first."""
        pids = self.pids(part)
        for pid in pids if all_of_it else pids[:1]:
            os.kill(pid, number)
        return pids[0]

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait_end(seconds)

    def remove(self) -> None:
        """Stop it if it runs, and leave nothing on disk."""
        if self.process:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def begin_as_at_a_terminal() -> Callable[[], None]:
    """For the new process: Ctrl-C counts, though a shell that put us in the background may have had it ignored."""
    tie = die_with_parent(signal.SIGTERM)

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if tie:
            tie()

    return begin


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex((LOOPBACK, port)) == 0


def set_read_only(database: psycopg.Connection[Any], value: str) -> None:
    """For all connections from now on, as a standby or a full disk of somebody's would make it."""
    database.execute("SET default_transaction_read_only = off")
    database.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    database.execute("SELECT pg_reload_conf()")
