"""Whatever a client sends, however it is cut: pure properties of what reads it, and a bounded run over the wire."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarantine.delivery.smtp import NOT_IN_PATH
from quarantine.delivery.wire import encode, normalise
from quarantine.gateway.addresses import AddressError, SyntaxProblem, read_address, read_path
from quarantine.gateway.connection import split_command
from quarantine.gateway.inlet import Chunks, Data, Inlet, LineTooLongError, Pace, Progress
from quarantine.gateway.memory import Memory, Share
from quarantine.gateway.session import Session
from quarantine.gateway.xclient import read_xclient
from tests.quarantine.gateways import Client, run_gateway

NEVER = settings(deadline=None)
PIECES = st.sampled_from([b"\r", b"\n", b".", b"..", b"\r\n", b"\r\n.", b"\n.\n", b"\r.\r", b"x", b"\0", b"\xff"])
NOISE = st.lists(PIECES | st.binary(max_size=4), max_size=40).map(b"".join)
CUTS = st.lists(st.integers(1, 9), max_size=60)
END = b"\r\n.\r\n"


def cut(wire: bytes, cuts: list[int]) -> list[bytes]:
    segments = []
    for size in cuts:
        segments.append(wire[:size])
        wire = wire[size:]
    return [segment for segment in [*segments, wire] if segment]


def run(read, segments: list[bytes]):
    """What is read from these segments, and what is left of them."""

    async def feed(inlet: Inlet) -> None:
        for segment in segments:
            inlet.feed(segment)
            await asyncio.sleep(0)
        inlet.feed_eof()

    async def main():
        inlet = Inlet(asyncio.get_running_loop(), lambda: None)
        feeding = asyncio.ensure_future(feed(inlet))
        found = await read(inlet)
        await feeding
        return found, bytes(inlet._buffer)

    return asyncio.run(main())


def read_data(wire: bytes, cuts: list[int], *, limit: int = 10**6, room: int = 10**6) -> tuple[Data, bytes]:
    memory = Memory(limit=room, client_limit=room)

    async def read(inlet: Inlet) -> Data:
        memory.change("other", 1)  # else a message that is alone finds any room
        share = Share(memory, "client")
        data = await inlet.read_data(limit=limit, pace=Pace(), share=share, progress=Progress(0.0))
        share.empty()
        return data

    found = run(read, cut(wire, cuts))
    assert memory.taken == 1
    return found


def split_by_the_book(wire: bytes) -> tuple[bytes, bytes]:
    """RFC 5321 4.1.1.4 and 4.5.2, line by line: the message, and what follows its end."""
    lines, rest = [], wire
    while True:
        line, _, rest = rest.partition(b"\r\n")
        if line == b".":
            return b"".join(lines), rest
        lines.append(line.removeprefix(b".") + b"\r\n")


# Messages


@NEVER
@given(NOISE, NOISE, CUTS)
def test_a_message_and_its_rest_are_the_same_however_they_are_cut(content, rest, cuts):  # D01, D02, D20
    wire = content + END + rest
    data, left = read_data(wire, cuts)
    assert (data.octets, left) == split_by_the_book(wire)
    assert data.size == len(data.octets or b"")


@NEVER
@given(NOISE, NOISE, CUTS, st.integers(0, 120))
def test_a_message_over_the_limit_is_dropped_whole_and_its_rest_kept(content, rest, cuts, limit):  # L05
    wire = content + END + rest
    message, left = split_by_the_book(wire)
    fits = len(message) <= limit
    assert read_data(wire, cuts, limit=limit) == (Data(message if fits else None, len(message)), left)


@NEVER
@given(NOISE, NOISE, CUTS, st.integers(0, 120))
def test_a_message_without_room_is_dropped_whole_and_its_rest_kept(content, rest, cuts, room):
    wire = content + END + rest
    data, left = read_data(wire, cuts, room=room)
    message, expected = split_by_the_book(wire)
    assert (data.size, left) == (len(message), expected)
    assert data.octets in (None, message)
    if len(wire) < room:
        assert data.octets == message


@NEVER
@given(NOISE, CUTS)
def test_what_we_send_is_one_message_to_ourselves(raw, cuts):  # O01, O02, O03, O05
    data, left = read_data(encode(b"", raw) + b".\r\nMAIL FROM:<x@y.test>\r\n", cuts)
    assert data.octets == normalise(raw)
    assert left == b"MAIL FROM:<x@y.test>\r\n"


@NEVER
@given(NOISE, CUTS)
def test_what_we_took_leaves_as_one_message_of_the_same_lines(content, cuts):  # O04
    data, _ = read_data(content + END, cuts)
    assert data.octets is not None
    wire = encode(b"A: b\r\n", data.octets)
    assert wire.count(b"\r\n") == wire.count(b"\r") == wire.count(b"\n")
    message, rest = split_by_the_book(wire + b".\r\n")
    assert (message, rest) == (b"A: b\r\n" + normalise(data.octets), b"")


@NEVER
@given(st.lists(NOISE, min_size=1, max_size=6), NOISE, CUTS, st.integers(0, 200))
def test_chunks_are_their_octets_however_they_are_cut(chunks, rest, cuts, limit):
    wire = b"".join(b"BDAT %d\r\n%b" % (len(chunk), chunk) for chunk in chunks) + rest
    memory = Memory(limit=10**6, client_limit=10**6)

    async def read(inlet: Inlet) -> Data:
        whole = Chunks(limit=limit, share=Share(memory, "client"), began=asyncio.get_running_loop().time())
        for _ in chunks:
            line = await inlet.read_line(limit=100, seconds=5)
            await inlet.read_chunk(int(line.split()[1]), into=whole, pace=Pace())
        found = whole.get_data()
        whole.close()
        return found

    data, left = run(read, cut(wire, cuts))
    message = b"".join(chunks)
    assert (data, left) == (Data(message if len(message) <= limit else None, len(message)), rest)
    assert memory.taken == 0


# Commands


@NEVER
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), min_size=1), CUTS)
def test_lines_are_the_same_however_they_are_cut(lines, cuts):
    async def read(inlet: Inlet) -> list[bytes | None]:
        return [await read_line(inlet) for _ in lines]

    async def read_line(inlet: Inlet) -> bytes | None:
        try:
            return await inlet.read_line(limit=20, seconds=5)
        except LineTooLongError:
            return None

    found, left = run(read, cut(b"".join(line + b"\n" for line in lines), cuts))
    assert found == [line + b"\n" if len(line) < 20 else None for line in lines]
    assert left == b""


@given(st.binary())
def test_any_line_has_a_verb_and_an_argument(line):
    name, argument = split_command(line)
    assert " " not in name
    assert not argument.endswith((b" ", b"\t"))
    if name in Session.COMMANDS:
        assert line[: len(name)].upper() == name.encode()


ATEXT = st.text("abcXYZ0189!#$%&'*+-/=?^_`{|}~.@<>\"\\ \t\0:;,[]()\xe9\u4e2d\ud800", max_size=40)
PATHS = st.tuples(
    st.sampled_from([b"", b"@a.test:", b"@a.test,@b.test:", b'"']),
    ATEXT.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=20),
    st.sampled_from([b"@alpha.test", b"@ALPHA.test.", b"@[192.0.2.1]", b"@b\xc3\xbccher.test", b""]),
).map(b"".join)


@given(PATHS, st.sampled_from([b"", b" SIZE=1", b" SMTPUTF8 BODY=8BITMIME", b"x", b" ="]), st.booleans())
def test_any_path_is_an_address_that_can_be_passed_on_or_refused(path, parameters, utf8):
    """O07: what is taken can be written in a command of our own, means the same there, and names one domain."""
    try:
        found = read_path(b"TO:<" + path + b">" + parameters, b"TO:")
        address = read_address(found.text, utf8=utf8)
    except (SyntaxProblem, AddressError):
        return
    if not address or address.lower() == "postmaster":
        return
    assert utf8 or address.isascii()
    assert not NOT_IN_PATH.search(address)
    domain = address.rpartition("@")[2]
    assert re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Za-z:.]+\]", domain)
    again = read_path(f"FROM:<{address}>".encode(), b"FROM:")
    assert read_address(again.text, utf8=utf8) == address


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"ADDR", b"HELO", b"=", b" ", b"+00", b"::1", b"IPV6:"])).map(b"".join)
)
def test_any_xclient_states_an_address_or_nothing(argument):
    try:
        stated = read_xclient(argument)
    except ValueError:
        return
    assert not stated.get("ADDR") or ipaddress.ip_address(stated["ADDR"])


# Over the wire

VERBS = [
    "HELO",
    "EHLO",
    "MAIL",
    "RCPT",
    "RSET",
    "NOOP",
    "VRFY",
    "EXPN",
    "STARTTLS",
    "XCLIENT",
    "BDAT",
    "DATA",
    "AUTH",
    "X",
]
ARGUMENTS = st.sampled_from(
    [
        *(b"x", b"FROM:<ann@sender.test>", b"FROM:<>", b"TO:<bob@alpha.test>", b"TO:<postmaster>"),
        *(b"TO:<\xc3\xa9@alpha.test>", b"FROM:<a\0b@c.test>", b"FROM:<\xed\xa0\x80@c.test> SMTPUTF8"),
        *(b"FROM:<\xc3\xa9@c.test> SMTPUTF8", b"FROM:<ann@sender.test> SIZE=9 BODY=8BITMIME", b"0", b"3", b"0 LAST"),
        *(b"ADDR=192.168.0.1 HELO=+00+0D+0A", b"\x1b[0m\0\r", b"\xff"),
    ]
)
COMMANDS = st.lists(
    st.tuples(st.sampled_from(VERBS).map(str.encode), st.just(b" "), ARGUMENTS | st.binary(max_size=12)).map(b"".join)
    | st.binary(max_size=30)
    | st.just(b".")
    | st.sampled_from([b"MAIL FROM:<ann@sender.test>", b"RCPT TO:<bob@alpha.test>", b"DATA", b"EHLO \0\x7f\xff"]),
    max_size=25,
)
REPLY = re.compile(r"[2-5][0-9][0-9][ -][ -~]+")


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway() as running:
        yield running


@pytest.mark.usefixtures("committed")
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(COMMANDS)
def test_no_conversation_is_a_fault_of_ours(gateway, caplog, commands):  # A22, D21, D22, D41
    caplog.set_level(logging.WARNING)
    client = Client(gateway.port)
    assert client.read_reply().startswith("220 ")
    client.send(b"\r\n".join([b"EHLO x", *commands, b"", b".", b"QUIT", b""]))
    client.socket.shutdown(1)
    replies = client.stream.read().decode("ascii").split("\r\n")
    client.close()
    assert all(REPLY.fullmatch(reply) for reply in replies[:-1])
    assert replies[-1] == ""
    assert not [reply for reply in replies if reply.startswith(("451 ", "421 4.3.0"))]
    assert not [one for one in caplog.records if one.name.startswith("quarantine.")]
