"""Messages in chunks (RFC 3030): exact octets, and nothing of a refused chunk is ever taken for a command."""

from __future__ import annotations

import pytest

from quarantine.gateway.inlet import Pace
from quarantine.gateway.limits import Limits
from quarantine.gateway.memory import COPIES
from tests.quarantine.gateways import run_gateway
from tests.quarantine.test_gateway_mail import CLEAN, HEADER, list_rows, read_back
from tests.quarantine.test_gateway_memory import NO_ROOM
from tests.quarantine.test_gateway_session import (
    HELO_FIRST,
    MAIL,
    MAIL_FIRST,
    OK,
    RCPT,
    RECIPIENT_OK,
    SENDER_OK,
    TEMPORARY,
    TOO_BIG,
    UNKNOWN_MAILBOX,
)
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")

CHUNK_OK = "250 2.0.0 Chunk received"
UNDER_WAY = "503 5.5.1 The message is being sent by BDAT, go on with BDAT or RSET"
SYNTAX = "501 5.5.4 Syntax: BDAT octets, then LAST for the last chunk"
OUT_OF_STEP = "421 4.5.4 Cannot tell content from commands, closing the connection"
LIMIT = 100_000


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway(limits=Limits(message_octets=LIMIT, idle_commands=8)) as running:
        yield running


def send_chunk(client, octets: bytes, *, last: bool = False) -> str:
    client.send(b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets)
    return client.read_reply()


def start(gateway):
    client = gateway.open()
    assert client.talk(MAIL, RCPT) == [SENDER_OK, RECIPIENT_OK]
    return client


@pytest.mark.parametrize(
    "chunks",
    [
        (CLEAN,),
        (CLEAN[:50], CLEAN[50:]),
        (CLEAN, b""),  # BDAT 0 LAST
        (b"", CLEAN),
        (b"",),
        (HEADER, b"\r\nno line end at the end"),
        (HEADER + b"\r\n.\r\n..x\r\n", b".\r", b"\n.\r\n"),
        (HEADER + b"\r\nbare\nand\rand\0and\xff\r\n.\n", b"QUIT\r\nRSET\r\n"),
        (HEADER + b"\r\n" + b"x" * 70_000,),
    ],
)
def test_the_octets_kept_are_those_of_the_chunks(gateway, chunks):  # D33
    client = start(gateway)
    *first, last = chunks
    assert [send_chunk(client, chunk) for chunk in first] == [CHUNK_OK] * len(first)
    assert read_back(send_chunk(client, last, last=True)) == b"".join(chunks)
    assert client.ask(RCPT) == MAIL_FIRST


def test_a_message_in_one_segment_with_what_follows(gateway):
    client = gateway.open()
    client.send(f"{MAIL}\r\n{RCPT}\r\nBDAT {len(HEADER)}\r\n".encode() + HEADER)
    client.send(b"bdat 7  last\r\n\r\nNoon?" + f"{MAIL}\r\nRSET\r\n".encode())
    replies = [client.read_reply() for _ in range(6)]
    assert replies[:3] + replies[4:] == [SENDER_OK, RECIPIENT_OK, CHUNK_OK, SENDER_OK, OK]
    assert read_back(replies[3]) == HEADER + b"\r\nNoon?"


def test_chunks_cut_anywhere(gateway):
    client = start(gateway)
    wire = b"BDAT %d\r\n%bBDAT 3 LAST\r\nx\r\n" % (len(CLEAN), CLEAN)
    for n in range(len(wire)):
        client.send(wire[n : n + 1])
    assert client.read_reply() == CHUNK_OK
    assert read_back(client.read_reply()) == CLEAN + b"x\r\n"


def test_only_bdat_and_rset_go_on_with_a_message_in_chunks(gateway):
    client = start(gateway)
    assert send_chunk(client, b"x" * 600) == CHUNK_OK
    replies = client.talk("DATA", RCPT, MAIL, "NOOP", "RSET", "DATA")
    assert replies == [UNDER_WAY, UNDER_WAY, "503 5.5.1 A sender was given already", OK, OK, MAIL_FIRST]
    assert client.talk(MAIL, RCPT) == [SENDER_OK, RECIPIENT_OK]
    assert read_back(send_chunk(client, CLEAN, last=True)) == CLEAN
    assert gateway.services.memory.taken == 0


def test_a_new_greeting_drops_what_came_in_chunks(gateway):
    client = start(gateway)
    send_chunk(client, b"x" * 600)
    client.ask("EHLO again.test")
    assert gateway.services.memory.taken == 0
    assert send_chunk(client, CLEAN, last=True) == MAIL_FIRST
    assert list_rows() == []


@pytest.mark.parametrize(
    ("commands", "refusal"),
    [
        ([], HELO_FIRST),
        (["EHLO x"], MAIL_FIRST),
        (["EHLO x", MAIL], "503 5.5.1 Send RCPT first"),
        (["EHLO x", MAIL, "RCPT TO:<no@alpha.test>"], "554 5.5.1 No valid recipients"),
    ],
)
def test_a_refused_chunk_is_never_read_as_commands(gateway, commands, refusal):
    client = gateway.connect()
    client.talk(*commands)
    inside = b"EHLO x\r\nMAIL FROM:<evil@sender.test>\r\nRCPT TO:<bob@alpha.test>\r\n"
    assert send_chunk(client, inside) == refusal
    assert send_chunk(client, inside, last=True) == refusal
    assert client.ask("NOOP") == OK


def test_what_follows_a_lost_chunk_is_no_message(gateway):
    client = gateway.open()
    assert client.talk(MAIL, "RCPT TO:<no@alpha.test>") == [SENDER_OK, UNKNOWN_MAILBOX]
    refused = send_chunk(client, HEADER)
    assert client.ask(RCPT) == UNDER_WAY
    assert send_chunk(client, b"\r\nhalf\r\n", last=True) == refused == "554 5.5.1 No valid recipients"
    assert list_rows() == [("no@alpha.test", "refused")]


def test_a_message_too_big_gets_one_answer_and_the_session_lives(gateway):  # L05
    client = start(gateway)
    half = b"x" * (LIMIT // 2)
    replies = [send_chunk(client, half), send_chunk(client, half), *(send_chunk(client, b"x" * 600) for _ in range(30))]
    assert replies == [CHUNK_OK, CHUNK_OK, *[TOO_BIG] * 30]
    assert client.ask("DATA") == UNDER_WAY
    assert send_chunk(client, b"", last=True) == TOO_BIG
    assert send_chunk(client, b"", last=True) == MAIL_FIRST
    assert list_rows() == [("bob@alpha.test", "refused")]
    assert client.mail(data=CLEAN).startswith("250 ")
    with_limit = start(gateway)
    assert read_back(send_chunk(with_limit, CLEAN.ljust(LIMIT, b"x"), last=True)) == CLEAN.ljust(LIMIT, b"x")


def test_a_fault_of_ours_in_the_midst_is_temporary_to_the_end(gateway, monkeypatch):
    async def fail(*_, **__):
        raise RuntimeError

    client = start(gateway)
    monkeypatch.setattr(gateway.services.intake, "record_refused_message", fail)
    client.send(b"BDAT 100001\r\n" + b"x" * 100_001 + b"BDAT 1\r\nxBDAT 1 LAST\r\nx")
    assert [client.read_reply() for _ in range(3)] == [TEMPORARY] * 3
    assert client.ask("NOOP") == OK


@pytest.mark.parametrize(
    "argument", ["", "abc", "-1", "+1", "1.0", "0x10", "1 FIRST", "1LAST", "1 LAST LAST", "9" * 11, "\u0661"]
)
def test_a_size_that_cannot_be_read_ends_the_session(gateway, argument):
    client = start(gateway)
    client.send(f"BDAT {argument}\r\n".encode() + b"MAIL FROM:<evil@sender.test>\r\n")
    assert [client.read_reply(), client.read_reply()] == [SYNTAX, OUT_OF_STEP]
    assert client.is_closed()


def test_binary_content_is_not_offered(gateway):
    client = gateway.open()
    assert client.ask(f"{MAIL} BODY=BINARYMIME") == "501 5.5.4 BODY is 7BIT or 8BITMIME"


def test_small_chunks_are_commands_without_mail(gateway):
    client = start(gateway)
    assert [send_chunk(client, b"x" * 511) for _ in range(7)] == [CHUNK_OK] * 7  # and EHLO
    assert client.read_reply() == "421 4.7.0 Too many commands without mail, closing the connection"
    client = start(gateway)
    assert [send_chunk(client, b"x" * 512) for _ in range(9)] == [CHUNK_OK] * 9


def test_chunks_share_the_memory_with_all_messages_and_give_it_back():
    with run_gateway(limits=Limits(memory_octets=COPIES * 100_000, client_memory_octets=COPIES * 60_000)) as gateway:
        first, second = (start(gateway) for _ in range(2))
        assert send_chunk(first, b"x" * 50_000) == CHUNK_OK
        assert send_chunk(second, b"x" * 20_000) == NO_ROOM
        assert send_chunk(second, b"x" * 600, last=True) == NO_ROOM
        assert gateway.services.memory.taken == 50_000
        first.close()
        wait_until(lambda: gateway.services.memory.taken == 0)
        assert second.talk(MAIL, RCPT) == [SENDER_OK, RECIPIENT_OK]
        assert send_chunk(second, CLEAN, last=True).startswith("250 ")
        assert not gateway.services.memory._clients


@pytest.mark.parametrize("pace", [Pace(silence=0.2), Pace(grace=0.2, rate=1000)])
def test_a_chunk_that_does_not_come_is_cut(pace):  # W01
    with run_gateway(limits=Limits(pace=pace)) as gateway:
        client = start(gateway)
        client.send(b"BDAT 1000\r\nx")
        assert client.read_reply() == "421 4.4.2 Timeout, closing the connection"
        assert client.is_closed()


def test_a_message_in_whole_small_chunks_has_no_more_time_than_any():  # W01
    with run_gateway(limits=Limits(pace=Pace(grace=0.3, rate=10**12))) as gateway:
        client = start(gateway)
        replies = []
        while not replies or replies[-1] == CHUNK_OK:
            replies.append(send_chunk(client, b"x" * 600))
        assert replies[-1] == "421 4.4.2 Timeout, closing the connection"
