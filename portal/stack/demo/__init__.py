"""The demo: a small world around the gateway (customers' mail server, name server), people and mail to look at."""

from __future__ import annotations

import socket
from collections.abc import Mapping

LOOPBACK = "127.0.0.1"


def demo_environment(smtp_port: int, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of every process in demo mode: the demo is on, and where its mail server and name server are.

    Both stand beside the SMTP port (one and two above it), or on free ports where those are taken. Resolvers that were
    given are asked by the demo's name server, which alone knows the demo's clients.
    """
    sink = given.get("LAZARET_DEMO_SINK") or f"{LOOPBACK}:{choose_port(smtp_port + 1)}"
    return {
        "LAZARET_XCLIENT": "127.0.0.0/8,::1",
        **given,
        "LAZARET_DEMO": "1",
        "LAZARET_DEMO_SINK": sink,
        "LAZARET_DNS": f"{LOOPBACK}:{choose_port(smtp_port + 2, besides=sink)}",
        "LAZARET_DEMO_UPSTREAM": given.get("LAZARET_DNS", ""),
    }


def choose_port(wanted: int, *, besides: str = "") -> int:
    """The port wanted, or a free one; free for TCP and UDP alike."""
    if 0 < wanted < 65536 and not besides.endswith(f":{wanted}") and is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        found = int(probe.getsockname()[1])
    return found if is_free(found) else choose_port(0)


def is_free(port: int) -> bool:
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            stream.bind((LOOPBACK, port))
            datagrams.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
