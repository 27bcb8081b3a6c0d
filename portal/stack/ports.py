"""The addresses people name: whether they are free, in a sentence, and kept from other Lazarets while ours starts."""

from __future__ import annotations

import errno
import socket

from portal.settings.environment import Address
from portal.stack.process import StackError


def reserve(variable: str, address: Address) -> socket.socket:
    """Keep `address` for processes of ours that listen with SO_REUSEPORT. StackError names the variable otherwise."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(where)
    except socket.gaierror:
        raise StackError(f"{variable} is {address}, and {address.host!r} is no address of this machine.") from None
    except OSError as error:
        raise StackError(f"{variable} is {address}, {_explain(error, address)}") from None
    return held


def _explain(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"and port {address.port} is in use by another program; set it to another one."
    if error.errno == errno.EACCES:
        return f"and this user may not listen on port {address.port}; choose one from 1024 on."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"and {address.host} is no address of this machine."
    return f"where nothing can listen: {error.strerror}."
