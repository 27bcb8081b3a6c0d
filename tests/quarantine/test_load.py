"""When mail is put off for the gateway's own good, and that it is taken again when it is well."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from quarantine.causes import Cause
from quarantine.delivery.callout import CONVERSATIONS
from quarantine.gateway import load as module
from quarantine.gateway import replies
from quarantine.gateway.limits import Limits
from quarantine.gateway.load import Load, find_data, is_full, is_local
from quarantine.gateway.server import CONVERSATION_FILES, OWN_FILES, SESSION_FILES, fit_to_files
from quarantine.platform.models import Heartbeat
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import MAIL, OK, RCPT, RECIPIENT_OK, SENDER_OK, TEMPORARY
from tests.running_courier import wait_until

CANNOT_STORE, OVERLOADED, NO_SPACE = map(str, (replies.CANNOT_STORE, replies.OVERLOADED, replies.NO_SPACE))


class Idle:
    """A store and examiners in one, as the test says they are."""

    def __init__(self) -> None:
        self.depth = 0
        self.oldest_seconds = self.waiting_seconds = 0.0
        self.is_closed = self.is_suspected = False

    def get_waiting_seconds(self, client: str) -> float:
        return 60.0 if client == "slow" else 0.0

    def suspect(self) -> None:
        self.is_suspected = True


def make_load(parts: Idle, places: tuple[Path, ...] = (), **more: object) -> Load:
    return Load(parts, parts, places=places, min_free_octets=1, **more)  # type: ignore[arg-type]


@pytest.fixture
def parts() -> Idle:
    return Idle()


def refuse(load: Load, client: str = "") -> tuple[str, Cause] | None:
    refusal = load.refuse_mail(client)
    return refusal and (str(refusal[0]), refusal[1])


def test_an_idle_gateway_refuses_nothing(parts):
    load = make_load(parts)
    load.look()
    assert (load.refuse_connection(), refuse(load)) == (None, None)


def test_a_closed_store_is_told_at_mail_and_open_again_at_once(parts):
    load = make_load(parts)
    parts.is_closed = True
    assert refuse(load) == (CANNOT_STORE, Cause.UNAVAILABLE)
    parts.is_closed = False
    assert refuse(load) is None
    assert load.shed == {"unavailable": 1}


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("depth", module.STORE_DEPTH),
        ("oldest_seconds", module.STORE_SECONDS),
        ("waiting_seconds", module.EXAMINERS_SECONDS),
    ],
)
def test_a_long_queue_puts_mail_off_until_it_is_half_as_long(parts, name, limit):  # Q20
    load = make_load(parts)
    told = []
    for value in (limit, limit + 1, limit - 1, limit / 2 + 1, limit / 2, limit):
        setattr(parts, name, value)
        load.look()
        told.append(refuse(load))
    over = (OVERLOADED, Cause.OVERLOAD)
    assert told == [None, over, over, over, None, None]


def test_a_client_whose_messages_wait_is_put_off_alone(parts):
    load = make_load(parts)
    assert refuse(load, "slow") == (OVERLOADED, Cause.OVERLOAD)
    assert refuse(load, "other") is None


def test_one_stall_of_the_event_loop_is_forgiven_and_many_are_not(parts):
    load = make_load(parts)
    load.see_lag(3)
    load.look()
    assert refuse(load) is None
    assert load.peak_seconds == 3
    for _ in range(40):
        load.see_lag(0.8)
    load.look()
    assert refuse(load) == (OVERLOADED, Cause.OVERLOAD)
    assert load.refuse_connection() is None
    for _ in range(40):
        load.see_lag(2)
    load.look()
    assert load.refuse_connection() == (replies.LAGGING, Cause.OVERLOAD)
    for _ in range(40):
        load.see_lag(0)
    load.look()
    assert (load.refuse_connection(), refuse(load)) == (None, None)


def test_the_lag_of_a_loop_that_is_blocked_is_seen(parts):
    async def work() -> float:
        load = make_load(parts)
        running = asyncio.create_task(load.run())
        await asyncio.sleep(0.01)
        time.sleep(0.3)  # noqa: ASYNC251 - this is what it is about
        await asyncio.sleep(0.1)
        running.cancel()
        return load.peak_seconds

    assert asyncio.run(work()) > 0.2


def make_space(octets: int, inodes: int, files: int = 10**6) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=octets // 4096, f_frsize=4096, f_files=files, f_favail=inodes)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (make_space(2**30, 10**6), False),
        (make_space(2**20, 10**6), True),
        (make_space(2**30, 999), True),
        (make_space(2**30, 0, files=0), False),  # btrfs counts no inodes
    ],
)
def test_space_and_inodes_are_both_wanted(monkeypatch, space, expected):  # Q10
    monkeypatch.setattr(os, "statvfs", lambda _: space)
    assert is_full(Path("/"), 2**25, 1000) is expected


def test_a_place_that_is_not_there_is_not_full():
    assert not is_full(Path("/nowhere/at/all"), 2**60, 2**60)


def test_a_full_disk_is_told_at_mail_until_there_is_more_than_enough(parts, monkeypatch):  # Q10
    free = [100]
    monkeypatch.setattr(os, "statvfs", lambda _: make_space(free[0] * 4096, 10**6))
    monkeypatch.setattr(module, "SPACE_SECONDS", 0.01)

    async def work() -> list[object]:
        load = Load(parts, parts, places=[Path("/")], min_free_octets=50 * 4096)  # type: ignore[arg-type]
        running, told = asyncio.create_task(load.run()), []
        for blocks in (100, 49, 55, 61):
            free[0] = blocks
            await asyncio.sleep(0.1)
            told.append(refuse(load))
        running.cancel()
        return told

    full = (NO_SPACE, Cause.NO_SPACE)
    assert asyncio.run(work()) == [None, full, full, None]


def test_a_database_that_is_not_heard_makes_the_store_look(parts):
    async def work() -> None:
        load = make_load(parts, is_database_heard=lambda: False)
        running = asyncio.create_task(load.run())
        await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(work())
    assert parts.is_suspected


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", True), ("::1", True), ("/run", True), ("db.test", False)])
def test_a_local_server_is_told_from_others(host, expected):
    assert is_local(host) is expected


def test_no_more_connections_are_taken_than_there_are_files(monkeypatch):  # Q08
    for files in (256, 1024, 4096):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        limits, conversations = fit_to_files(Limits(connections=10**6))
        assert limits.connections > conversations > 0
        taken = OWN_FILES + limits.connections * SESSION_FILES + conversations * CONVERSATION_FILES
        assert files - SESSION_FILES < taken <= files
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**20))
    assert fit_to_files(Limits()) == (Limits(), CONVERSATIONS)


# A whole gateway


@pytest.fixture
def gateway(committed):
    with run_gateway() as running:
        yield running


def test_the_data_of_a_postgres_on_this_machine_is_found(gateway):
    [data, log] = gateway.run(find_data(gateway.gateway.pool))
    assert (data.name, log.name) == ("data", "pg_wal")
    assert gateway.gateway.load.places[1:] == [data, log]


def test_mail_put_off_is_refused_before_its_content_and_the_session_goes_on(gateway, monkeypatch):
    client = gateway.open()
    monkeypatch.setattr(gateway.gateway.load, "lacks_space", True)
    monkeypatch.setattr(gateway.gateway.load, "_is_any_full", lambda _: True)
    assert client.talk(MAIL, RCPT, "DATA", "RSET") == [SENDER_OK, NO_SPACE, TEMPORARY, OK]
    monkeypatch.undo()
    gateway.gateway.load.lacks_space = False
    assert client.talk(MAIL, RCPT, "RSET") == [SENDER_OK, RECIPIENT_OK, OK]


def test_its_signs_of_life_tell_while_all_mail_is_put_off_for_lack_of_space(committed, monkeypatch):
    monkeypatch.setattr("quarantine.platform.heartbeat.BEAT_SECONDS", 0.1)
    monkeypatch.setattr(module, "SPACE_SECONDS", 0.1)
    with run_gateway() as running:
        for expected in (True, False):
            monkeypatch.setattr(module, "is_full", lambda *_, found=expected: found)
            beats = Heartbeat.objects.filter(part="gateway", lacks_space=expected)
            wait_until(beats.exists)
            assert (running.gateway.load.refuse_content() is not None) is expected


def test_a_connection_put_off_is_told_421(gateway, monkeypatch):
    load = gateway.gateway.load
    monkeypatch.setattr(load, "look", lambda: None)
    load._limits["great_lag"].is_over = True
    client = gateway.connect(greeting=False)
    assert client.read_reply() == str(replies.LAGGING)
    assert client.is_closed()


def test_an_examination_that_hangs_is_answered_451_and_holds_up_nobody(gateway, monkeypatch):  # Q18
    free = threading.Event()
    monkeypatch.setattr("quarantine.intake.EVIDENCE_SECONDS", 0.5)
    real = gateway.services.intake._classifier.classify

    def hang(raw: bytes, provider: str):
        if b"hangs" in raw:
            free.wait(20)
        return real(raw, provider)

    monkeypatch.setattr(gateway.services.intake._classifier, "classify", hang)
    try:
        slow = [gateway.open("10.0.0.1") for _ in range(3)]
        for client in slow:
            client.talk(MAIL, RCPT, "DATA")
            client.send(b"Subject: hangs\r\n\r\n" + CLEAN + b".\r\n")
        assert gateway.open("10.0.0.2").mail(data=CLEAN).startswith("250 ")
        assert [client.read_reply() for client in slow] == [TEMPORARY] * 3
    finally:
        free.set()


def test_a_classifier_that_fails_means_451_and_never_unjudged_mail(gateway, monkeypatch):  # Q18
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(gateway.services.intake._classifier, "classify", fail)
    assert gateway.open().mail(data=CLEAN) == TEMPORARY
    monkeypatch.undo()
    assert gateway.open().mail(data=CLEAN).startswith("250 ")
