"""A running Lazaret with providers in it and a customer's mail server behind it: the ground of end-to-end tests."""

from __future__ import annotations

import re
import smtplib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg

from portal.tenants import provisioning
from tests.running import Stack
from tests.smtp_sink import Sink, SunkMessage

PASSWORD = "correct horse battery"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
TRACE_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{20}\b")
TRACE_HEADER = re.compile(rb"^X-Lazaret-Trace: *(\S+) by \S+\r$", re.MULTILINE)


@dataclass(frozen=True)
class Sent:
    """A message that was sent: its octets and the reply it got (code 0: none)."""

    raw: bytes
    code: int
    text: str

    @property
    def trace_id(self) -> str:
        found = TRACE_ID.search(self.text)
        return found.group() if found else ""


class World:
    """Lazaret, what people made in it, and the customer's mail server."""

    def __init__(self, stack: Stack, sink: Sink, *, sink_host: str = "127.0.0.1") -> None:
        """`sink_host` is where Lazaret finds the mail server."""
        self.stack = stack
        self.sink = sink
        self.sink_host = sink_host

    def provide(self, slug: str, domain: str, *, users: Iterable[str], admin: str = "") -> None:
        """A provider with one domain, its admin and its end users with a mailbox each."""
        facts = (slug, domain, f"{self.sink_host}:{self.sink.port}", admin, list(users), PASSWORD)
        self.stack.manage("shell", "-v", "0", "-c", f"from tests.world import provide; provide(*{facts!r})")

    def url(self, slug: str) -> str:
        """The portal of a provider, without a slash at the end."""
        return f"http://{slug}.localhost:{self.stack.web_port}"

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database says."""
        text = (self.stack.home / "lazaret.env").read_text()
        url = re.search(r"^DATABASE_URL=['\"]?([^'\"\n]+)", text, re.MULTILINE)
        assert url
        with psycopg.connect(url.group(1), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def send(self, raw: bytes, *, to: str, sender: str = "someone@sender.example") -> Sent:
        """Send one message on a connection of its own."""
        return send_all(self.stack.smtp, [(raw, sender, to)], connections=1)[0]

    def find_delivered(self) -> dict[str, list[SunkMessage]]:
        """What the customer's server took, by trace id."""
        found: dict[str, list[SunkMessage]] = {}
        for message in list(self.sink.messages):
            trace = TRACE_HEADER.search(message.raw)
            assert trace, message.raw[:500]
            found.setdefault(trace.group(1).decode(), []).append(message)
        return found


def make_mail(subject: str, text: str = "Hello,\r\n\r\nshall we meet at noon?\r\n", *, sender: str = "") -> bytes:
    sender = sender or "Someone <someone@sender.example>"
    return (
        f"From: {sender}\r\nTo: you\r\nSubject: {subject}\r\n"
        f"Message-ID: <{subject.replace(' ', '.')}@sender.example>\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n"
        f"\r\n{text}"
    ).encode()


def make_spam(subject: str) -> bytes:
    return make_mail(subject, f"{GTUBE}\r\n")


Letter = tuple[bytes, str, str]  # octets, envelope sender, recipient


def send_all(
    server: tuple[str, int],
    letters: list[Letter],
    *,
    connections: int,
    watch: Callable[[int], None] | None = None,
) -> list[Sent]:
    """Send letters over several connections with the standard library's client; a result for each, in order.

    A connection that breaks is opened anew for the next letter; nothing is sent twice. `watch` hears how many are done.
    """
    results: list[Sent | None] = [None] * len(letters)
    numbers = iter(range(len(letters)))
    lock = threading.Lock()
    done = 0

    def work() -> None:
        nonlocal done
        client: smtplib.SMTP | None = None
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            client, results[number] = send_one(client, server, letters[number])
            with lock:
                done += 1
                count = done
            if watch:
                watch(count)
        if client:
            client.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [result for result in results if result is not None]


def send_one(client: smtplib.SMTP | None, server: tuple[str, int], letter: Letter) -> tuple[smtplib.SMTP | None, Sent]:
    raw, sender, recipient = letter
    try:
        if client is None:
            client = smtplib.SMTP(*server, local_hostname="sender.example", timeout=60)
            client.ehlo()
        for step in (lambda: client.mail(sender, ["BODY=8BITMIME"]), lambda: client.rcpt(recipient)):
            code, text = step()
            if code != 250:
                client.rset()
                return client, Sent(raw, code, text.decode())
        code, text = transmit(client, raw)
        return client, Sent(raw, code, text.decode())
    except (OSError, smtplib.SMTPException) as error:
        if client:
            client.close()
        return None, Sent(raw, 0, str(error))


def transmit(client: smtplib.SMTP, raw: bytes) -> tuple[int, bytes]:
    """DATA with the octets as they are, dots stuffed; smtplib's own data() would change line ends."""
    code, text = client.docmd("DATA")
    if code != 354:
        return code, text
    stuffed = re.sub(rb"(\A|\r\n)\.", rb"\1..", raw)
    client.send(stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n"))
    return client.getreply()


def below_our_lines(message: SunkMessage, original: bytes) -> bool:
    """Whether the message that arrived is the original, octet for octet, below header lines of ours."""
    added = message.raw.removesuffix(original)
    return message.raw.endswith(original) and all(
        line.startswith((b"Received:", b"X-Lazaret-", b"X-Spam-Flag:", b"\t", b" ")) for line in added.splitlines()
    )


def provide(slug: str, domain: str, server: str, admin: str, users: list[str], password: str) -> None:
    """Within Lazaret (manage.py shell): what `World.provide` promises, in one process."""
    provider = provisioning.create_provider(slug=slug, name=slug.title(), hostname=f"{slug}.localhost")
    provisioning.add_domain(provider, domain, server=server)
    if admin:
        provisioning.add_user(provider, admin, password=password, provider_admin=True)
    for email in users:
        owner = provisioning.add_user(provider, email, password=password)
        provisioning.add_mailbox(provider, email, owner=owner)
