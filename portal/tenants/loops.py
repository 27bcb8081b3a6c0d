"""Mail loops: a customer's mail server must not be ourselves."""

from __future__ import annotations

import ipaddress
import socket

from django.conf import settings

SMTP_PORT = 25


def is_own_address(host: str, port: int) -> bool:
    """Whether `host:port` is where our own gateway listens. Asks the system's resolver, so it may take seconds.

    A name that does not resolve is not ours; our announced name is, whatever it resolves to.
    """
    own = settings.SMTP_ADDRESS
    if host.lower().rstrip(".") == settings.SMTP_HOSTNAME.lower():
        return port in {own.port, SMTP_PORT}
    if port != own.port:
        return False
    theirs, ours = resolve(host), resolve(own.host)
    if any(ipaddress.ip_address(ip).is_unspecified for ip in ours):
        return any(is_local(ip) for ip in theirs)
    return bool(theirs & ours) or any(ipaddress.ip_address(ip).is_unspecified for ip in theirs)


def resolve(host: str) -> set[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(address[0]).partition("%")[0] for *_, address in found}


def is_local(ip: str) -> bool:
    """Whether the address is one of this machine's: only those can be bound."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True
