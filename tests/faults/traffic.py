"""Mail without a pause, from clients that behave as mail servers do: whatever was not answered 250 is sent again.

Every try and every 250 is on disk before the client goes on, so that the books are right whoever is killed.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.quarantine.gateways import Client, stuff
from tests.world import make_mail

PAUSE_SECONDS = 0.1  # after a message was put off
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass(frozen=True, slots=True)
class Said:
    """What a client heard (an empty reply: the connection broke), when it asked, and when it heard it."""

    verb: str
    reply: str
    asked_at: float
    at: float


class Traffic:
    """So many clients that send one message after the other, from `with` on to its end, and one that never says DATA,
    so that it is known what is answered while the others wait for the reply to a message.

    `lose_replies` is the share of messages whose client hangs up right after the final dot and sends again.
    """

    def __init__(
        self,
        port: int,
        log: Path,
        *,
        recipients: tuple[str, ...] = ("bob@alpha.test",),
        clients: int = 4,
        pause: float = 0.0,
        lose_replies: float = 0.0,
        make: Callable[[str], bytes] = make_mail,
        name: str = "m",
    ) -> None:
        self.heard: list[Said] = []
        self.taken: dict[str, float] = {}  # sender of the message -> when its 250 came
        self.tried: dict[str, float] = {}  # and when it was first tried
        self._port = port
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._recipients = recipients
        self._pause = pause
        self._lose_replies = lose_replies
        self._make = make
        self._name = name
        self._ending = threading.Event()
        self._giving_up = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self._threads = [threading.Thread(target=self._send_for_ever, args=(n,)) for n in range(clients)]
        self._threads.append(threading.Thread(target=self._ask_for_ever))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end(0)

    def end(self, seconds: float = 30) -> None:
        """No new messages; those under way are tried again for so long."""
        self._ending.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._giving_up.set()
        for thread in self._threads:
            thread.join()

    def list_heard(self, verb: str = "", since: float = 0, until: float = float("inf")) -> list[str]:
        """Replies to commands that were given in this time."""
        return [
            one.reply
            for one in list(self.heard)
            if verb in ("", one.verb) and since <= one.asked_at and one.at <= until
        ]

    def list_refusals(self) -> list[str]:
        """Every 5xx ever heard: there must be none."""
        return [reply for reply in self.list_heard() if reply.startswith("5")]

    def has_taken_since(self, moment: float) -> bool:
        """Whether a message was answered 250 after that."""
        return self.count_taken(moment) > 0

    def count_taken(self, since: float) -> int:
        return len([at for at in list(self.taken.values()) if at > since])

    def _send_for_ever(self, worker: int) -> None:
        client: Client | None = None
        while not self._ending.is_set():
            sender, raw = self._write_letter()
            recipient = random.choice(self._recipients)
            loses_reply = random.random() < self._lose_replies
            self._note("try", sender)
            self.tried[sender] = time.monotonic()
            while not self._giving_up.is_set():
                client = client or self._connect(worker)
                answer = client and self._try(client, sender, recipient, raw, loses_reply=loses_reply)
                if answer and answer.startswith("250"):
                    self._note("ok", sender)
                    self.taken[sender] = time.monotonic()
                    break
                loses_reply = False
                if client and (not answer or answer.startswith("421")):
                    client.close()
                    client = None
                self._giving_up.wait(PAUSE_SECONDS)
            self._ending.wait(self._pause)
        if client:
            client.close()

    def _ask_for_ever(self) -> None:
        while not self._ending.wait(PAUSE_SECONDS):
            if client := self._connect(0):
                with suppress(OSError):
                    self._offer(client, "", self._recipients[0])
                client.close()

    def _write_letter(self) -> tuple[str, bytes]:
        with self._lock:
            self._number += 1
            number = self._number
        name = f"{self._name}-{number}"
        return f"{name}@sender.example", self._make(name)

    def _note(self, what: str, sender: str) -> None:
        os.write(self._log, f"{what} {sender}\n".encode())
        os.fsync(self._log)

    def _connect(self, worker: int) -> Client | None:
        begun_at = time.monotonic()
        try:
            client = Client(self._port)
            greeting = client.read_reply()
            self._hear("CONNECT", greeting, begun_at)
            if greeting.startswith("220") and client.ask(f"EHLO client-{worker}.example").startswith("250"):
                return client
            client.close()
        except OSError:
            pass
        return None

    def _try(self, client: Client, sender: str, recipient: str, raw: bytes, *, loses_reply: bool) -> str:
        """The last reply: 250 where the message was taken. Empty: the connection broke, or is to be given up."""
        try:
            if not self._offer(client, sender, recipient).startswith("250"):
                return ""
            if not (reply := self._ask(client, "DATA", "DATA")).startswith("354"):
                return reply and self._ask(client, "RSET", "RSET").replace("250", "", 1)
            if loses_reply:
                client.send(stuff(raw) + b".\r\n")
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                return ""
            begun_at = time.monotonic()
            return self._hear("DOT", client.send_data(raw), begun_at)
        except OSError:
            return ""

    def _offer(self, client: Client, sender: str, recipient: str) -> str:
        """What is said to MAIL and RCPT, of these the first that is not 250; heard as the answer to both, OFFER."""
        begun_at = time.monotonic()
        reply = self._ask(client, "MAIL", f"MAIL FROM:<{sender}>")
        if reply.startswith("250"):
            reply = self._ask(client, "RCPT", f"RCPT TO:<{recipient}>")
        return self._hear("OFFER", reply, begun_at)

    def _ask(self, client: Client, verb: str, command: str) -> str:
        begun_at = time.monotonic()
        return self._hear(verb, client.ask(command), begun_at)

    def _hear(self, verb: str, reply: str, begun_at: float) -> str:
        self.heard.append(Said(verb, reply, begun_at, time.monotonic()))
        return reply


def read_log(log: Path) -> tuple[set[str], set[str]]:
    """Whom the log says was tried, and taken."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return {sender for what, sender in lines if what == "try"}, {sender for what, sender in lines if what == "ok"}
