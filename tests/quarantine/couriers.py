"""What the tests of the courier ask and know."""

from portal.tenants.models import MailDomain
from quarantine.models import Event, Recipient
from tests.running_courier import wait_until
from tests.smtp_sink import Sink

HEAD_LINES = 5  # Received (three, folded or more), X-Lazaret-Trace
BOB, CAROL, BEA = "bob@alpha.test", "carol@alpha.test", "bea@beta.test"


def route(sink: Sink, *names: str) -> None:
    domains = MailDomain.objects.filter(name__in=names) if names else MailDomain.objects.all()
    domains.update(server_host="127.0.0.1", server_port=sink.port)


def get_row(address: str = BOB) -> Recipient:
    return Recipient.objects.get(address=address)


def wait_for_state(state: str, address: str = BOB) -> Recipient:
    wait_until(lambda: get_row(address).state == state)
    return get_row(address)


def get_body(raw: bytes) -> bytes:
    """What follows our own header lines."""
    lines = raw.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith(b"X-Lazaret-Trace:"))
    start += 1
    while lines[start].startswith((b"X-Spam-Flag:", b"X-Lazaret-Verdict:")):
        start += 1
    return b"".join(lines[start:])


def list_kinds() -> list[str]:
    return list(Event.objects.order_by("id").values_list("kind", flat=True))
