"""What all sessions of a process share."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from filtering.evidence import PtrEvidence
from filtering.evidence.addresses import name_client
from quarantine.gateway import replies
from quarantine.gateway.limits import Limits
from quarantine.gateway.load import Load
from quarantine.gateway.memory import COPIES, Memory
from quarantine.gateway.recipients import RecipientFinder
from quarantine.gateway.replies import Reply
from quarantine.gateway.story import Ledger
from quarantine.intake import Intake

LOOPBACK = ("127.0.0.0/8", "::1/128")


class Stoppable(Protocol):
    def stop(self) -> None: ...

    def cut(self) -> None: ...


@dataclass(slots=True)
class Services:
    """The gateway as a session sees it, and the sessions as the gateway sees them."""

    hostname: str
    recipients: RecipientFinder
    intake: Intake
    load: Load
    ledger: Ledger
    look_up_ptr: Callable[[str], Awaitable[PtrEvidence]]
    limits: Limits = field(default_factory=Limits)
    tls: ssl.SSLContext | None = None
    trusted_networks: tuple[str, ...] = ()  # whose XCLIENT is believed
    balancer_networks: tuple[str, ...] = ()  # who must begin with a PROXY header
    is_ready: bool = False
    is_stopping: bool = False
    sessions: set[Stoppable] = field(default_factory=set)
    pending: set[asyncio.Future[Reply]] = field(default_factory=set)  # messages whose end is decided on
    memory: Memory = field(init=False)
    _clients: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        limits = self.limits
        self.memory = Memory(limit=limits.memory_octets // COPIES, client_limit=limits.client_memory_octets // COPIES)

    def is_trusted(self, ip: str) -> bool:
        return is_among(ip, self.trusted_networks)

    def is_balancer(self, ip: str) -> bool:
        return is_among(ip, self.balancer_networks)

    def is_ours(self, ip: str) -> bool:
        """Whether nobody connects from there but this machine, and peers that we were told of."""
        return is_among(ip, LOOPBACK) or self.is_trusted(ip) or self.is_balancer(ip)

    def admit(self, session: Stoppable, ip: str) -> Reply | None:
        """Take note of a new connection; a reply means that it is to be turned away with it."""
        self.sessions.add(session)
        self._clients[name_client(ip)] += 1
        if self.is_stopping:
            return replies.STOPPING
        if not self.is_ready:
            return replies.NOT_READY
        if len(self.sessions) > self.limits.connections:
            return replies.TOO_BUSY
        if shed := self.load.refuse_connection():
            return shed[0]
        return self._refuse_client(ip)

    def move(self, ip: str, stated: str) -> Reply | None:
        """A load balancer has said for whom a connection is; a reply means that it is to be turned away with it."""
        self._discount(ip)
        self._clients[name_client(stated)] += 1
        return self._refuse_client(stated)

    def _refuse_client(self, ip: str) -> Reply | None:
        number = self._clients[name_client(ip)]
        if number <= self.limits.client_connections or self.is_trusted(ip) or self.is_balancer(ip):
            return None
        return replies.TOO_MANY_CONNECTIONS

    def forget(self, session: Stoppable, ip: str) -> None:
        self.sessions.discard(session)
        self._discount(ip)

    def _discount(self, ip: str) -> None:
        client = name_client(ip)
        self._clients[client] -= 1
        if self._clients[client] <= 0:
            del self._clients[client]


@lru_cache(maxsize=4096)  # asked several times of each connection
def is_among(ip: str, networks: tuple[str, ...]) -> bool:
    if not networks or not ip:
        return False
    address = ipaddress.ip_address(ip)
    return any(address in ipaddress.ip_network(network) for network in networks)
