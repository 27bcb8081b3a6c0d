"""A gateway begins to listen when it can take mail, and our own look at it is nobody's mail that was put off."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from django.test import override_settings

from portal.settings.environment import Address
from portal.web.views import health
from quarantine.gateway import replies, server
from quarantine.gateway.server import Gateway, serve
from quarantine.store import DurabilityError, Store
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_metrics import Change

pytestmark = pytest.mark.usefixtures("committed")


def test_who_comes_first_is_greeted(monkeypatch):
    start = Store.start

    async def start_late(store):
        await asyncio.sleep(0.3)
        await start(store)

    monkeypatch.setattr(Store, "start", start_late)
    with run_gateway(wait=False) as gateway:
        assert gateway.connect().ask("QUIT").startswith("221 ")


def test_healthz_asks_no_gateway_that_is_not_ready(monkeypatch):
    async def fail(_):
        raise OSError

    monkeypatch.setattr(Store, "start", fail)
    monkeypatch.setattr(server, "READY_SECONDS", 0.01)
    change = Change()
    with run_gateway(wait=False) as gateway:
        with override_settings(SUPERVISED=True, SMTP_ADDRESS=Address("127.0.0.1", gateway.port)):
            assert asyncio.run(health.check_parts())["gateway"] == {"state": "down", "instances": 0}
        assert change.list("connections_total") == {}

        client = gateway.connect(greeting=False)
        assert client.read_reply() == str(replies.NOT_READY)
        assert client.is_closed()
        assert change.list("connections_total") == {("deferred", "unavailable"): 1}


def test_healthz_gives_a_gateway_its_own_time_to_greet(monkeypatch):
    async def read_slowly(_):
        await asyncio.sleep(0.9)
        return False, {"gateway": [1.0]}

    async def greet_slowly():
        await asyncio.sleep(0.9)
        return True

    assert 0.9 < health.CHECK_SECONDS < 1.8
    monkeypatch.setattr(health, "BANNER_SECONDS", 5.0)
    monkeypatch.setattr(health, "read_database", read_slowly)
    monkeypatch.setattr(health, "_read_banner", greet_slowly)
    assert asyncio.run(health.check_parts())["gateway"]["state"] == "ready"


def test_a_stop_while_it_starts_is_an_orderly_one(monkeypatch):
    start = Gateway.start

    async def start_and_be_told_to_stop(gateway, host, port):
        os.kill(os.getpid(), signal.SIGTERM)
        await start(gateway, host, port)

    monkeypatch.setattr(Gateway, "start", start_and_be_told_to_stop)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal was not waited for"))
    try:
        asyncio.run(serve("127.0.0.1", 0))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_gateway_that_may_not_run_does_not_listen(monkeypatch):
    async def refuse(_):
        raise DurabilityError("synchronous_commit is off")

    monkeypatch.setattr(Store, "start", refuse)

    async def start() -> bool:
        gateway = Gateway()
        await gateway.start("127.0.0.1", 0)
        is_listening = gateway._server.is_serving()
        await gateway.stop()
        return is_listening

    assert asyncio.run(start()) is False
