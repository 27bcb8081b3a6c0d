"""A real gateway process and a PostgreSQL of its own that goes away: nothing is lost, nothing is refused for good."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from portal.stack.postgres import EmbeddedPostgres
from portal.stack.process import die_with_parent, find_free_port
from tests.quarantine.gateways import Client
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import GO_AHEAD, MAIL, RCPT, RECIPIENT_OK, SENDER_OK, TEMPORARY
from tests.servers import PREFIX

pytestmark = pytest.mark.faults

CANNOT_STORE = "451 4.3.0 Mail cannot be stored at the moment, please try again later"
PROJECT = Path(__file__).resolve().parent.parent.parent
RECOVERY_SECONDS = 10
FILL = """
import django; django.setup()
from django.core.management import call_command
call_command("migrate_schemas", shared=True, verbosity=0)
from tests import cast
cast.make_schemas(); cast.make_people()
"""


class World:
    """PostgreSQL with the cast in it, and one gateway process."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.home.chmod(0o755)
        self.postgres = EmbeddedPostgres(self.home / "postgres")
        self.postgres.start()
        self.environment = os.environ | {
            "DATABASE_URL": self.postgres.url,
            "DJANGO_SETTINGS_MODULE": "portal.settings.test",
            "LAZARET_XCLIENT": "127.0.0.1",
        }
        subprocess.run([sys.executable, "-c", FILL], env=self.environment, cwd=PROJECT, check=True, capture_output=True)
        self.port = find_free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start_gateway(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "gateway", "--listen", f"127.0.0.1:{self.port}"],
            env=self.environment,
            cwd=PROJECT,
            stderr=(self.home / "gateway.log").open("ab"),
            preexec_fn=die_with_parent(signal.SIGTERM),
        )

    def start_postgres(self) -> None:
        self.postgres.start(self.postgres.port)

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

    def list_senders(self) -> list[str]:
        """The sender of each message whose octets are there."""
        with psycopg.connect(self.postgres.url) as database:
            rows = database.execute(
                "SELECT sender FROM sp_acme.quarantine_message m"
                " JOIN sp_acme.quarantine_content c ON c.message_id = m.id"
                " JOIN sp_acme.quarantine_recipient r ON r.message_id = m.id"
                " JOIN public.platform_deliveryjob j ON j.recipient_id = r.id ORDER BY m.id"
            ).fetchall()
        return [sender for (sender,) in rows]

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.postgres.stop()
        shutil.rmtree(self.home, ignore_errors=True)


def wait_until(find: Callable[[], object], seconds: float) -> object:
    deadline = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.start_gateway()
        yield world
    finally:
        world.stop()


def send(client: Client, sender: str) -> str:
    return client.mail(sender, "bob@alpha.test", data=CLEAN)


def test_postgres_stopped_and_back(world):
    client = world.wait_for_session()
    assert send(client, "before@sender.test").startswith("250 ")
    world.postgres.stop()
    try:
        wait_until(lambda: client.talk(MAIL, "RSET")[0] == CANNOT_STORE, RECOVERY_SECONDS)
        assert client.talk(MAIL, RCPT)[0] == CANNOT_STORE
    finally:
        world.start_postgres()
    wait_until(lambda: send_or_reset(client, "after@sender.test"), RECOVERY_SECONDS)
    replies = client.talk(MAIL, "RCPT TO:<carol@alpha.test>", "RSET")
    assert replies[1] == RECIPIENT_OK
    assert world.list_senders() == ["before@sender.test", "after@sender.test"]


def test_a_gateway_that_starts_before_postgres_says_so(world):
    world.wait_for_session()
    world.process.kill()
    world.process.wait()
    world.postgres.stop()
    try:
        world.start_gateway()
        said = wait_until(world.open, 30)
        assert said == "421 4.3.0 Service not ready, try again later"
    finally:
        world.start_postgres()
    client = wait_until(lambda: found if isinstance(found := world.open(), Client) else None, RECOVERY_SECONDS)
    assert send(client, "late@sender.test").startswith("250 ")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_gateway_ended_under_load_loses_nothing_it_confirmed(world, number):
    clients = [world.wait_for_session() for _ in range(4)]
    confirmed: list[str] = []
    known = len(world.list_senders())

    def send_many(worker: int, client: Client) -> None:
        try:
            for n in range(1000):
                sender = f"w{worker}-{n}@{number.name.lower()}.test"
                if send(client, sender).startswith("250 "):
                    confirmed.append(sender)
        except (OSError, AssertionError, IndexError):
            return  # the gateway has gone, or says that it goes

    threads = [threading.Thread(target=send_many, args=(n, client)) for n, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(confirmed) > 40, 30)
    world.process.send_signal(number)
    for thread in threads:
        thread.join(30)
    status = world.process.wait(40)
    world.start_gateway()
    stored = world.list_senders()[known:]
    assert set(confirmed) <= set(stored)
    assert len(stored) == len(set(stored))
    if number == signal.SIGTERM:
        assert status == 0
        assert set(stored) == set(confirmed)  # what was under way was finished, and its sender told


def test_postgres_killed_under_load_loses_nothing_confirmed(world):
    client = world.wait_for_session()
    confirmed = []
    for n in range(60):
        if n == 20:
            world.postgres.process.kill()
            world.postgres.process.wait()
        if n == 30:
            wait_until(lambda: try_start(world), 30)
        if send_or_reset(client, sender := f"pg-{n}@sender.test"):
            confirmed.append(sender)
    wait_until(lambda: send_or_reset(client, "last@sender.test"), RECOVERY_SECONDS)
    stored = world.list_senders()
    assert set(confirmed) <= set(stored)
    assert len(confirmed) >= 20


def try_start(world: World) -> bool:
    """The killed server's children may hold its memory for a moment."""
    try:
        world.start_postgres()
    except Exception:
        return False
    return True


def send_or_reset(client: Client, sender: str) -> bool:
    if (reply := client.ask(f"MAIL FROM:<{sender}>")) != SENDER_OK:
        assert reply == CANNOT_STORE
        return False
    if (reply := client.ask(RCPT)) != RECIPIENT_OK:
        assert reply == TEMPORARY
        client.ask("RSET")
        return False
    assert client.ask("DATA") == GO_AHEAD
    reply = client.send_data(CLEAN)
    assert reply == TEMPORARY or reply.startswith("250 ")
    return reply.startswith("250 ")
