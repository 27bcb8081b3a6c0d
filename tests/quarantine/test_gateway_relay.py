"""Through the gateway and on by the courier: what a customer's server is sent, octet for octet."""

from __future__ import annotations

import re

import pytest

from tests.quarantine.couriers import get_body, route
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import HEADER
from tests.quarantine.test_gateway_session import GO_AHEAD, MAIL, RCPT, RECIPIENT_OK, SENDER_OK
from tests.running_courier import running_courier
from tests.smtp_sink import Sink

pytestmark = pytest.mark.usefixtures("committed")

ENDS = [
    *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r"),
    *(b"\r.\r\n", b"\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\r\n.\r\r\n"),
]
SMUGGLED = b"MAIL FROM:<evil@sender.test>\r\nRCPT TO:<carol@alpha.test>\r\nDATA\r\nSubject: evil\r\n\r\nx\r\n.\r\nQUIT"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway() as running:
        yield running


@pytest.fixture
def sink():
    with Sink() as made:
        route(made)
        yield made


def send(gateway, octets: bytes, *, chunked: bool, helo: str | bytes = "client.test") -> None:
    client = gateway.connect()
    client.ask(b"EHLO " + (helo.encode() if isinstance(helo, str) else helo))
    assert client.talk(MAIL, RCPT) == [SENDER_OK, RECIPIENT_OK]
    if chunked:
        client.send(b"BDAT %d LAST\r\n%b" % (len(octets), octets))
    else:
        assert client.ask("DATA") == GO_AHEAD
        client.send(octets + b"\r\n.\r\n")
    assert client.read_reply().startswith("250 2.0.0 Ok: kept as ")
    client.close()


def to_lines(octets: bytes) -> bytes:
    """Every line end as CRLF, the last one too."""
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


@pytest.mark.parametrize("chunked", [False, True], ids=["data", "bdat"])
def test_nothing_between_two_lines_makes_a_second_message(gateway, sink, tmp_path, chunked):  # O04, D10-D19
    sent = [HEADER + b"\r\nfirst" + end + SMUGGLED.replace(b"\r\n.\r\n", b"\r\n..\r\n") for end in ENDS]
    if chunked:  # there nothing at all ends a message but its size
        sent = [HEADER + b"\r\nfirst" + end + SMUGGLED for end in [*ENDS, b"\r\n.\r\n"]]
    for octets in sent:
        send(gateway, octets, chunked=chunked)
    with running_courier(tmp_path):
        arrived = sink.wait(len(sent))
    assert len(arrived) == len(sent)
    assert {(one.sender, *one.recipients) for one in arrived} == {("<ann@sender.test>", "<bob@alpha.test>")}
    kept = sent if chunked else [octets.replace(b"\r\n.", b"\r\n") for octets in sent]
    assert sorted(get_body(one.raw) for one in arrived) == sorted(map(to_lines, kept))
    for one in arrived:
        assert one.wire.count(b"\r\n") == one.wire.count(b"\r") == one.wire.count(b"\n")
    assert not any("evil" in command or "carol" in command for command in sink.commands)


@pytest.mark.parametrize(
    "octets",
    [
        HEADER + b"\r\n" + b"x" * 70_000,
        HEADER + b"\r\n" + b"x" * 3_000_000 + b"\r\nlast",
        HEADER + b"\r\n.\r\n..\r\n\r\n.",
        HEADER + b"\r\nno end",
    ],
    ids=["long", "longest", "dots", "no-end"],
)
def test_what_came_in_chunks_leaves_as_it_is_with_a_line_end(gateway, sink, tmp_path, octets):  # L10, D33
    send(gateway, octets, chunked=True)
    with running_courier(tmp_path):
        [arrived] = sink.wait(1)
    assert get_body(arrived.raw) == octets + b"\r\n"


def test_no_control_character_of_a_greeting_is_in_our_header(gateway, sink, tmp_path):  # D40
    send(gateway, HEADER, chunked=True, helo=b'x\rX-Evil: 1\r\x0b\0\x1b[31m\x7f\xe2\x80\xa8("\\y')
    with running_courier(tmp_path):
        [arrived] = sink.wait(1)
    head = arrived.raw[: arrived.raw.index(b"X-Lazaret-Trace:")]
    assert head.startswith(b"Received: from x?X-Evil: 1?[31m?y (")
    assert not re.search(rb"[^\r\n\t -~]", head)
    assert [line.split(b":")[0] for line in head.split(b"\r\n") if line[:1].strip()] == [b"Received"]
