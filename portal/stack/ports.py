"""The addresses people name: whether they are free, in a sentence, and kept from other Lazarets while ours starts."""

from __future__ import annotations

import errno
import socket

from portal.settings.environment import Address
from portal.stack.process import StackError

BACKLOG = 1024


def reserve(variable: str, address: Address) -> socket.socket:
    """Keep `address` for processes of ours that listen with SO_REUSEPORT. StackError names the variable otherwise."""
    listen(variable, address).close()  # without SO_REUSEPORT: nobody else may be there
    return _make_socket(variable, address, socket.SO_REUSEPORT)


def listen(variable: str, address: Address) -> socket.socket:
    """Listen at `address`, for a process of ours that takes over. StackError names the variable otherwise."""
    listening = _make_socket(variable, address, socket.SO_REUSEADDR)
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise StackError(f"{variable} is {address}, {_explain(error, address)}") from None
    return listening


def _make_socket(variable: str, address: Address, option: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise StackError(f"{variable} is {address}, and {address.host!r} is no address of this machine.") from None
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        made.bind(where)
    except OSError as error:
        made.close()
        raise StackError(f"{variable} is {address}, {_explain(error, address)}") from None
    return made


def _explain(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"and port {address.port} is in use by another program; set it to another one."
    if error.errno == errno.EACCES:
        return f"and this user may not listen on port {address.port}; choose one from 1024 on."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"and {address.host} is no address of this machine."
    return f"where nothing can listen: {error.strerror}."
