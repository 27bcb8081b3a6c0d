"""Names of customers' servers, looked up on threads of their own: one customer's dead name servers stall nobody else.

The system's resolver cannot be interrupted: what it does not answer in time keeps its thread. So a name is asked for by
one thread at a time, and whoever wants it meanwhile waits for that answer.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from portal.tenants.loops import is_own_address
from quarantine.delivery.smtp import ConnectError, describe

THREADS = 64
SECONDS = 15.0  # to wait for an answer


class OwnAddressError(OSError):
    """The name leads back to this gateway."""


class Names:
    """Look-ups for one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="names")
        self._asked: dict[tuple[str, int], asyncio.Future[tuple[str, ...]]] = {}

    async def get_addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses of a customer's server. Raises ConnectError, also where that is ourselves."""
        if not host:
            raise ConnectError("the domain has no mail server")
        asked = self._asked.get((host, port)) or self._ask(host, port)
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.shield(asked)
        except OwnAddressError:
            raise ConnectError(f"5.4.6 {host}:{port} is this gateway itself: a mail loop") from None
        except TimeoutError:
            raise ConnectError(f"{host}:{port} cannot be looked up: no answer in time") from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"{host}:{port} cannot be looked up ({describe(error)})") from None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, host: str, port: int) -> asyncio.Future[tuple[str, ...]]:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, look_up, host, port)
        self._asked[host, port] = asked

        def forget(answer: asyncio.Future[tuple[str, ...]]) -> None:
            del self._asked[host, port]
            if not answer.cancelled():
                answer.exception()  # nobody may be waiting any more

        asked.add_done_callback(forget)
        return asked


def look_up(host: str, port: int) -> tuple[str, ...]:
    if is_own_address(host, port):
        raise OwnAddressError
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
