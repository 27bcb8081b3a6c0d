"""Asking our own /healthz."""

from __future__ import annotations

import asyncio
import http.client
import json

from portal.settings.environment import Address

TIMEOUT_SECONDS = 4


async def find_unready(web: Address) -> list[str]:
    """The parts that are not ready, by name; `web` while nobody answers."""
    return await asyncio.to_thread(_ask, web)


def _ask(web: Address) -> list[str]:
    connection = http.client.HTTPConnection(get_own_host(web), web.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        parts = json.loads(connection.getresponse().read())["parts"]
        return [name for name, part in parts.items() if part["state"] != "ready"]
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return ["web"]
    finally:
        connection.close()


def get_own_host(address: Address) -> str:
    """Where this machine reaches an address it listens on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
