"""The PROXY protocol, versions 1 and 2: a load balancer says for whom it speaks (HAProxy's proxy-protocol.txt)."""

from __future__ import annotations

import asyncio
import ipaddress

from quarantine.gateway.inlet import Inlet, LineTooLongError

MAX_LINE = 107  # octets of version 1 (section 2.1)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2 (section 2.2)
HEAD_OCTETS = 16
MAX_REST = 4096  # octets of version 2 after its head: addresses, and more that we do not read
LOCAL, PROXY = 0x20, 0x21
OCTETS = {0x11: 4, 0x21: 16}  # of an address, by family: TCP over IPv4 and IPv6
OTHERS = {0x00, 0x12, 0x22, 0x31, 0x32}  # unspecified, UDP, Unix sockets: nothing that has an address for us


class BadHeaderError(ValueError):
    """There is no PROXY header, or none that can be read."""


async def read_header(inlet: Inlet, *, seconds: float) -> str:
    """The client's address as the header states it; empty where the balancer speaks for itself.

    Raises BadHeaderError, or what waiting raises. The whole header must be there within so many seconds.
    """
    async with asyncio.timeout(seconds):
        if await inlet.look(seconds=seconds) == SIGNATURE[:1]:
            head = await inlet.read_exactly(HEAD_OCTETS, seconds=seconds)
            rest = await inlet.read_exactly(measure_rest(head), seconds=seconds)
            return read_version_2(head, rest)
        try:
            return read_version_1(await inlet.read_line(limit=MAX_LINE, seconds=seconds))
        except LineTooLongError as error:
            raise BadHeaderError from error


def read_version_1(line: bytes) -> str:
    """`PROXY TCP4 source destination port port`, or `PROXY UNKNOWN` and anything."""
    if not line.endswith(b"\r\n") or not line.isascii():
        raise BadHeaderError
    words = line[:-2].decode("ascii").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return ""
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in {"TCP4", "TCP6"}:
        raise BadHeaderError
    parse = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    if not all(word.isdigit() and len(word) <= 5 and int(word) < 65536 for word in words[4:]) or "%" in line.decode():
        raise BadHeaderError
    try:
        source, _ = map(parse, words[2:4])
    except ValueError as error:
        raise BadHeaderError from error
    return str(source)


def measure_rest(head: bytes) -> int:
    """How many octets come after the head of version 2."""
    size = int.from_bytes(head[14:])
    if head[:12] != SIGNATURE or head[12] not in {LOCAL, PROXY} or size > MAX_REST:
        raise BadHeaderError
    return size


def read_version_2(head: bytes, rest: bytes) -> str:
    if head[12] == LOCAL or head[13] in OTHERS:
        return ""
    octets = OCTETS.get(head[13])
    if octets is None or len(rest) < 2 * octets + 4:
        raise BadHeaderError
    return str(ipaddress.ip_address(rest[:octets]))
