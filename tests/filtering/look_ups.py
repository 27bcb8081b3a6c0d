"""A resolver that asks a name server on loopback, and a clock that goes on when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from filtering.evidence import PtrStatus
from filtering.evidence.ptr import look_up_ptr
from filtering.evidence.resolver import Resolver
from tests.dns_server import DnsServer

SOA = "2.0.192.in-addr.arpa. 60 IN SOA ns.example.test. root.example.test. 1 2 3 4 60"
NONE, UNKNOWN, OK = PtrStatus.NONE, PtrStatus.UNKNOWN, PtrStatus.OK


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(server: DnsServer, story: Callable[[Resolver, Clock], Awaitable[object]], **options: object) -> object:
    """Let the story happen with a resolver that asks this server, and a clock that goes on when it is told to."""

    async def tell() -> object:
        clock = Clock()
        settings = {"deadline": 1.0, "clock": clock, **options}
        return await story(Resolver([server.address], **settings), clock)  # type: ignore[arg-type]

    return asyncio.run(tell())


async def get_status(resolver: Resolver, ip: str = "192.0.2.1") -> PtrStatus:
    return (await look_up_ptr(ip, resolver)).status


def list_addresses(number: int) -> list[str]:
    """So many addresses, each in a network of its own."""
    return [f"198.{18 + number // 256}.{number % 256}.1" for number in range(number)]


async def look_at_many(resolver: Resolver, number: int) -> set[PtrStatus]:
    return set(await asyncio.gather(*(get_status(resolver, ip) for ip in list_addresses(number))))


def list_alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message.split()[0] for record in caplog.records if record.message.startswith("rule_")]
