"""How a customer's server is called, for mail and for questions."""

from __future__ import annotations

import logging
import time

from quarantine.delivery.names import Names
from quarantine.delivery.server import PLAIN_SECONDS, Server
from quarantine.delivery.smtp import Connection, Patience, TlsError, connect

log = logging.getLogger(__name__)


async def dial(server: Server, names: Names, *, hostname: str, patience: Patience) -> Connection:
    """A connection that was greeted; in plain text where the server's STARTTLS is broken, and for a while from then on.
    The address that broke off last is tried last. Raises ConnectError.
    """

    async def greet(*, tls: bool) -> Connection:
        return await connect(server.host, server.port, addresses, hostname=hostname, tls=tls, patience=patience)

    found = await names.get_addresses(server.host, server.port)
    addresses = tuple(sorted(found, key=lambda address: address == server.avoid))
    try:
        return await greet(tls=time.monotonic() >= server.plain_until)
    except TlsError as error:
        log.warning("starttls_failed server=%s error=%s", server, str(error))
        server.plain_until = time.monotonic() + PLAIN_SECONDS
        return await greet(tls=False)
