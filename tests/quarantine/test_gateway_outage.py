"""A real gateway process and a PostgreSQL of its own that goes away: nothing is lost, nothing is refused for good."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from tests.faults.ground import CANNOT_STORE, RECOVERY_SECONDS, Ground, wait_until
from tests.quarantine.gateways import Client
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import GO_AHEAD, MAIL, RCPT, RECIPIENT_OK, SENDER_OK, TEMPORARY

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def world() -> Iterator[Ground]:
    world = Ground()
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
        wait_until(lambda: client.talk(MAIL, RCPT, "RSET")[1] == CANNOT_STORE, RECOVERY_SECONDS)
        assert client.talk(MAIL, RCPT, "DATA", "RSET")[:3] == [SENDER_OK, CANNOT_STORE, TEMPORARY]
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
            wait_until(world.try_to_start_postgres, 30)
        if send_or_reset(client, sender := f"pg-{n}@sender.test"):
            confirmed.append(sender)
        else:
            client = world.wait_for_session()  # one may not be put off for ever
    wait_until(lambda: send_or_reset(world.wait_for_session(), "last@sender.test"), RECOVERY_SECONDS)
    stored = world.list_senders()
    assert set(confirmed) <= set(stored)
    assert len(confirmed) >= 20


def send_or_reset(client: Client, sender: str) -> bool:
    assert client.ask(f"MAIL FROM:<{sender}>") == SENDER_OK
    if (reply := client.ask(RCPT)) != RECIPIENT_OK:
        assert reply in {CANNOT_STORE, TEMPORARY}
        client.ask("RSET")
        return False
    assert client.ask("DATA") == GO_AHEAD
    reply = client.send_data(CLEAN)
    assert reply == TEMPORARY or reply.startswith("250 ")
    return reply.startswith("250 ")
