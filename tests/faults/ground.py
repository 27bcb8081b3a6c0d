"""A PostgreSQL of its own with the cast in it, and one gateway process: the ground for outages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from portal.stack.postgres import EmbeddedPostgres
from portal.stack.process import StackError, die_with_parent, find_free_port
from tests.quarantine.gateways import Client
from tests.servers import PREFIX

T = TypeVar("T")
PROJECT = Path(__file__).resolve().parent.parent.parent
RECOVERY_SECONDS = 10  # what is promised
CANNOT_STORE = "451 4.3.0 Mail cannot be stored at the moment, please try again later"
FILL = """
import django; django.setup()
from django.core.management import call_command
call_command("migrate_schemas", shared=True, verbosity=0)
from tests import cast
cast.make_schemas(); cast.make_people()
"""


class Ground:
    """Start, break and mend it; `stop` leaves nothing."""

    def __init__(self, data: Path | None = None, settings: dict[str, str] | None = None, **environment: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.home.chmod(0o755)
        self.postgres = EmbeddedPostgres(data or self.home / "postgres", settings=settings)
        self.postgres.start()
        self.environment = os.environ | {
            "DATABASE_URL": self.postgres.url,
            "DJANGO_SETTINGS_MODULE": "portal.settings.test",
            "LAZARET_XCLIENT": "127.0.0.1",
            **environment,
        }
        subprocess.run([sys.executable, "-c", FILL], env=self.environment, cwd=PROJECT, check=True, capture_output=True)
        self.port = find_free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the gateway has said."""
        return (self.home / "gateway.log").read_text()

    def start_gateway(
        self, limit: Callable[[], None] = lambda: None, *, script: str = "manage.py", **environment: str
    ) -> None:
        tie = die_with_parent(signal.SIGTERM) or (lambda: None)

        def begin() -> None:
            tie()
            limit()

        self.process = subprocess.Popen(
            [sys.executable, script, "gateway", "--listen", f"127.0.0.1:{self.port}"],
            env=self.environment | environment,
            cwd=PROJECT,
            stderr=(self.home / "gateway.log").open("ab"),
            preexec_fn=begin,
        )

    def kill_gateway(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def start_postgres(self) -> None:
        self.postgres.start(self.postgres.port)

    def try_to_start_postgres(self) -> bool:
        """A killed server's children may hold its memory for a moment, a full disk may not let it recover."""
        try:
            self.start_postgres()
        except (StackError, psycopg.Error):
            return False
        return True

    def open(self) -> Client | str:
        """A session that has said EHLO; or what was said instead of a greeting."""
        try:
            client = Client(self.port)
        except ConnectionRefusedError:
            return ""
        greeting = client.read_reply()
        return client if greeting.startswith("220 ") and client.ask("EHLO x") else greeting

    def wait_for_session(self) -> Client:
        return wait_until(lambda: client if isinstance(client := self.open(), Client) else None, 30)

    def connect(self, **more: Any) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.postgres.url, autocommit=True, **more)

    def list_senders(self, schema: str = "sp_acme") -> list[str]:
        """The sender of each message whose octets are there, and that will be delivered."""
        with self.connect() as database:
            rows = database.execute(
                f"SELECT sender FROM {schema}.quarantine_message m"
                f" JOIN {schema}.quarantine_content c ON c.message_id = m.id"
                f" JOIN {schema}.quarantine_recipient r ON r.message_id = m.id"
                " JOIN public.platform_deliveryjob j ON j.recipient_id = r.id AND j.schema = %s ORDER BY m.id",
                [schema],
            ).fetchall()
        return [sender for (sender,) in rows]

    def account(self, taken: set[str], *schemas: str) -> tuple[list[str], list[str]]:
        """Who was answered 250 and is not there; and who is there more than once."""
        found = Counter(sender for schema in schemas or ("sp_acme",) for sender in self.list_senders(schema))
        return sorted(taken - set(found)), sorted(sender for sender, times in found.items() if times > 1)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill_gateway()
        with suppress(subprocess.TimeoutExpired):
            self.postgres.stop()
        shutil.rmtree(self.home, ignore_errors=True)


def wait_until(find: Callable[[], T], seconds: float) -> T:
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.05)
    return found
