"""A gateway begins to listen when it can take mail."""

from __future__ import annotations

import asyncio

import pytest

from quarantine.store import Store
from tests.quarantine.gateways import run_gateway

pytestmark = pytest.mark.usefixtures("committed")


def test_who_comes_first_is_greeted(monkeypatch):
    start = Store.start

    async def start_late(store):
        await asyncio.sleep(0.3)
        await start(store)

    monkeypatch.setattr(Store, "start", start_late)
    with run_gateway(wait=False) as gateway:
        assert gateway.connect().ask("QUIT").startswith("221 ")
