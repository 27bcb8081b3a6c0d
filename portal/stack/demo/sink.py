"""The customers' mail server of the demo: takes mail for any domain and writes it down as it came."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from portal.stack.demo.maildir import Maildirs

logger = logging.getLogger(__name__)
MAX_LINE_OCTETS = 1_048_576
HOSTNAME = "mail.demo.localhost"


class SinkSession(SMTP):
    line_length_limit = MAX_LINE_OCTETS


class Sink:
    """aiosmtpd's hooks."""

    def __init__(self, maildirs: Maildirs) -> None:
        self.maildirs = maildirs

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if not self.maildirs.accepts(address):
            return "550 5.1.1 The demo's mail server takes plain addresses only"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Recipient OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        names = [
            (await asyncio.to_thread(self.maildirs.deliver, address, content)).name
            for address in dict.fromkeys(envelope.rcpt_tos)
        ]
        logger.info("demo.arrived recipients=%d octets=%d", len(names), len(content))
        return f"250 2.0.0 Written as {names[0]}"

    async def handle_exception(self, error: Exception) -> str:
        logger.error("demo.sink_failed error=%s", type(error).__name__, exc_info=error)
        return "451 4.3.0 The demo's mail server failed"


async def start_sink(maildirs: Maildirs, *, listener: socket.socket, max_bytes: int) -> asyncio.Server:
    """Serve on the listening socket."""
    sink = Sink(maildirs)

    def make_session() -> Any:
        return SinkSession(
            sink, hostname=HOSTNAME, ident="SMTP", data_size_limit=max_bytes, enable_SMTPUTF8=True, timeout=60
        )

    return await asyncio.get_running_loop().create_server(make_session, sock=listener)
