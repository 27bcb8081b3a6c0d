"""Addresses as people paste them: out of an error message, a header, or a mail server's configuration."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_CHARACTERS = 100
CLIENT_BITS = 64  # of an IPv6 address: the rest is its owner's to choose
AROUND = " \t\r\n.,;\"'<>()[]{}"
NOWHERE = tuple(
    ipaddress.ip_network(net)
    for net in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
        "::/127",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
    )
)


def read_address(text: str) -> Address | None:
    """The address in `[192.0.2.25]`, `192.0.2.25.`, `[IPv6:2001:db8::1]`, `fe80::1%eth0`; None for what is none.

    An IPv4 address mapped into IPv6 is the IPv4 address.
    """
    try:
        address = ipaddress.ip_address(clean(text).partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)  # asked for every piece of a message
def name_client(text: str) -> str:
    """By what a client is told from others where uses are counted: its IPv4 address, or the network of its IPv6 one;
    what is no address stands for itself.
    """
    address = read_address(text)
    if address is None or address.version == 4:
        return str(address or text)
    return str(ipaddress.ip_network(f"{address}/{CLIENT_BITS}", strict=False))


def clean(text: str) -> str:
    """What was pasted without what stands around it."""
    bare = text[:MAX_CHARACTERS].strip(AROUND)
    return bare[5:] if bare[:5].lower() == "ipv6:" else bare


def is_public(address: Address) -> bool:
    """Whether it can be the address of a mail server on the internet, with reverse DNS in public.

    Those of documentation can: they are nobody's, and serve for tests and demonstrations.
    """
    return not any(address.version == net.version and address in net for net in NOWHERE)
