"""Nothing vanishes: whatever becomes of a connection or a transaction is on record, with every reply and the reason."""

from __future__ import annotations

import socket
import struct
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Sum
from django_tenants.utils import schema_context

from quarantine import records
from quarantine.gateway import load
from quarantine.gateway.inlet import Pace
from quarantine.gateway.limits import Limits
from quarantine.gateway.replies import NO_ROOM, RETURNED, TOO_MANY_ERRORS
from quarantine.intake import MAX_UNROUTED
from quarantine.models import Event, Message, Recipient
from quarantine.platform.models import HourlyCount, Unrouted
from quarantine.store import StoreUnavailableError
from tests.quarantine.gateways import RunningGateway, run_gateway, run_name_server
from tests.quarantine.test_gateway_mail import CLEAN, WITHOUT_PTR, get_trace_id
from tests.quarantine.test_gateway_session import MAIL, RCPT, RECIPIENT_OK, SENDER_OK, TEMPORARY
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")

ENVELOPE = [["MAIL FROM:<ann@sender.test>", SENDER_OK], ["RCPT TO:<bob@alpha.test>", RECIPIENT_OK]]
OPENING = [["CONNECT", "220 lazaret.localhost ESMTP"]]
CAROL = "RCPT TO:<carol@alpha.test>"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    limits = Limits(recipients=2, command_seconds=5, pace=Pace(silence=0.3))
    with django_db_blocker.unblock(), run_name_server(), run_gateway(limits=limits) as running:
        yield running


def read_story(gateway: RunningGateway, schema: str = "sp_acme") -> dict[str, Any]:
    """The one message of a provider, its recipients and its events, when everything is written; its trace id, with
    which errors end, is left off. What was said before MAIL is apart.
    """
    gateway.settle()
    with schema_context(schema):
        message = Message.objects.get()
        rows = Recipient.objects.order_by("id").values_list("address", "state", "cause")
        signature = f" (trace {message.trace_id})"
        said = [[command, reply.removesuffix(signature), *late] for command, reply, *late in message.replies]
        begin = next((n for n, (command, *_) in enumerate(said) if command.startswith("MAIL ")), len(said))
        events = [(one.kind, one.text.replace(signature, "")) for one in Event.objects.order_by("id")]
        told = {"opening": said[:begin], "replies": said[begin:]}
        return told | {"rows": list(rows), "events": events, "message": message}


def list_counts() -> dict[tuple[str, str, str], int]:
    rows = HourlyCount.objects.exclude(kind="dns").values_list("schema", "kind", "cause").annotate(total=Sum("count"))
    return {(schema, kind, cause): total for schema, kind, cause, total in rows}


def list_unrouted(gateway: RunningGateway) -> list[tuple[str, str, str, int]]:
    gateway.settle()
    return [
        (row.outcome, row.cause, row.reply.removesuffix(f" (trace {row.trace_id})"), row.times)
        for row in Unrouted.objects.order_by("id")
    ]


def test_a_message_that_was_taken_tells_every_reply(gateway):
    client = gateway.open()
    reply = client.mail(data=CLEAN)
    client.close()
    story = read_story(gateway)
    assert story["opening"] == [*OPENING, ["EHLO", "250 lazaret.localhost"]]
    assert story["replies"] == [
        *ENVELOPE,
        ["DATA", "354 End data with <CR><LF>.<CR><LF>"],
        ["end of data", f"250 2.0.0 Ok: kept as {get_trace_id(reply)}"],
    ]
    assert story["message"].ptr_milliseconds == 0
    assert list_counts() == {("sp_acme", "accepted", ""): 1}


def test_what_was_refused_at_rcpt_is_told_with_what_followed(gateway):
    client = gateway.open(WITHOUT_PTR)
    refusal = client.talk(MAIL, RCPT, "DATA", "QUIT")[1]
    client.close()
    story = read_story(gateway)
    assert story["replies"][1:] == [
        ["RCPT TO:<bob@alpha.test>", refusal],
        ["DATA", "554 5.5.1 No valid recipients"],
        ["QUIT", "221 2.0.0 Bye"],
    ]
    assert story["rows"] == [("bob@alpha.test", "refused", "reverse_dns")]
    assert story["message"].ptr_status == "none"
    assert list_counts() == {("sp_acme", "refused", "reverse_dns"): 1}


def hang_up(client) -> None:
    client.close()


def take_leave(client) -> None:
    assert client.ask("QUIT") == "221 2.0.0 Bye"
    client.close()


def reset(client) -> None:
    assert client.ask("RSET") == "250 2.0.0 Ok"
    client.close()


def hang_up_in_data(client) -> None:
    client.ask("DATA")
    client.send(CLEAN)
    client.close()


@pytest.mark.parametrize(
    ("end", "cause"),
    [(hang_up, "disconnected"), (take_leave, "quit"), (reset, "reset"), (hang_up_in_data, "disconnected")],
)
def test_a_client_that_does_not_finish_is_on_record(gateway, end, cause):
    client = gateway.open()
    client.talk(MAIL, RCPT)
    end(client)
    story = read_story(gateway)
    assert story["replies"][:2] == ENVELOPE
    assert story["rows"] == [("bob@alpha.test", "unfinished", cause)]
    assert [kind for kind, _ in story["events"]] == ["unfinished"]
    assert list_counts() == {("sp_acme", "unfinished", cause): 1}
    assert not Unrouted.objects.exists()


def test_a_client_that_falls_silent_is_on_record_with_when_and_after_how_much(gateway, monkeypatch):
    monkeypatch.setattr(records, "PAUSE_SECONDS", 0.2)
    client = gateway.open()
    client.talk(MAIL, RCPT, "DATA")
    client.send(b"Subject: half\r\n")
    assert client.read_reply() == "421 4.4.2 Timeout, closing the connection"
    story = read_story(gateway)
    assert story["rows"] == [("bob@alpha.test", "unfinished", "timeout")]
    command, reply, seconds = story["replies"][-1]
    assert (command, reply) == ("the client was too slow", "421 4.4.2 Timeout, closing the connection")
    assert seconds >= 0.3
    [(_, text)] = story["events"]
    assert text == f"{reply} [the client was too slow, after 15 octets of content]"
    with schema_context("sp_acme"):
        assert Event.objects.get().at - story["message"].received_at >= timedelta(seconds=0.3)


def test_how_much_had_come_in_chunks(gateway):
    client = gateway.open()
    client.talk(MAIL, RCPT)
    client.send(b"BDAT 10\r\n0123456789BDAT 9\r\n0123")
    assert client.read_reply() == "250 2.0.0 Chunk received"
    client.close()
    story = read_story(gateway)
    assert story["replies"][2:] == [["BDAT 10", "250 2.0.0 Chunk received"]]
    assert story["events"] == [
        ("unfinished", "250 2.0.0 Chunk received [the client hung up, after 14 octets of content]")
    ]


def test_every_reply_amid_a_transaction_is_told(gateway):
    client = gateway.open()
    client.talk("NOOP", MAIL)
    strays = ["BOGUS", MAIL, "BDAT x1 LAST", "VRFY bob"]
    said = client.talk(*strays[:2], RCPT, *strays[3:])
    client.send(b"BDAT 5\r\n01234")
    said += [client.read_reply(), client.ask("DATA"), client.ask(CAROL), client.ask("QUIT")]
    client.close()
    story = read_story(gateway)
    commands = ["BOGUS", "MAIL", RCPT, "VRFY", "BDAT 5", "DATA", CAROL, "QUIT"]
    signature = f" (trace {story['message'].trace_id})"
    assert story["opening"][-1] == ["NOOP", "250 2.0.0 Ok"]
    assert story["replies"] == [
        ENVELOPE[0],
        *([command, reply.removesuffix(signature)] for command, reply in zip(commands, said, strict=True)),
    ]


def test_errors_that_belong_to_no_transaction_are_told_by_the_connection(gateway):
    client = gateway.open()
    client.mail(data=CLEAN)
    client.talk("BOGUS", "", "DATA", "QUIT")
    client.close()
    assert list_unrouted(gateway) == [("unfinished", "quit", "", 1)]
    assert Unrouted.objects.get().replies == [
        ["BOGUS", "500 5.5.2 Command not recognized"],
        ["(no command)", "500 5.5.2 Command not recognized"],
        ["DATA", "503 5.5.1 Send MAIL first"],
        ["QUIT", "221 2.0.0 Bye"],
    ]


def test_a_sender_that_cannot_be_read_is_told_as_it_was_given(gateway):
    client = gateway.open()
    client.talk("MAIL FROM:<broken", "QUIT")
    client.close()
    gateway.settle()
    row = Unrouted.objects.get(cause="syntax")
    assert row.sender == "broken"
    assert ["MAIL FROM:<broken", f"501 5.5.4 Syntax: MAIL FROM:<address> and parameters (trace {row.trace_id})"] in (
        row.replies
    )


@pytest.mark.parametrize("deferral", [load.NO_SPACE, load.UNAVAILABLE])
@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 4\r\nabcdBDAT 3 LAST\r\ndef"])
def test_content_is_not_asked_for_where_it_cannot_be_stored_any_more(gateway, monkeypatch, deferral, command):
    client = gateway.open()
    client.talk(MAIL, RCPT)
    with monkeypatch.context() as patch:
        patch.setattr(type(gateway.services.load), "refuse_content", lambda _: deferral)
        client.send(command)
        said = [client.read_reply() for _ in range(command.count(b"\r\n"))]
    assert client.mail(data=CLEAN).startswith("250 ")  # the session goes on
    client.close()
    gateway.settle()
    with schema_context("sp_acme"):
        first, _ = Message.objects.order_by("received_at")
        assert said == [str(deferral[0])] * len(said)
        row, reply = first.recipients.get(), f"{deferral[0]} (trace {first.trace_id})"
        assert (row.state, row.cause, row.reply) == ("unfinished", deferral[1], reply)
        assert first.replies[-1] == ["end of data", reply]


def test_of_a_gateway_that_puts_mail_off_from_the_start_the_recipients_are_found(gateway, monkeypatch):
    """Nobody has asked it for a recipient before."""
    monkeypatch.setattr(load.Load, "refuse_mail", lambda *_: load.NO_SPACE)
    with run_gateway() as fresh:
        client = fresh.open()
        client.talk(MAIL, RCPT, "QUIT")
        client.close()
        assert read_story(fresh)["rows"] == [("bob@alpha.test", "unfinished", "no_space")]


def test_what_we_put_off_is_on_record_as_such(gateway, monkeypatch):
    async def fail(*_):
        raise StoreUnavailableError

    client = gateway.open()
    with monkeypatch.context() as patch:
        patch.setattr(gateway.services.intake, "receive", fail)
        assert client.mail(data=CLEAN) == TEMPORARY
    client.close()
    story = read_story(gateway)
    assert story["rows"] == [("bob@alpha.test", "unfinished", "unavailable")]
    assert story["replies"][-1] == ["end of data", TEMPORARY]
    assert story["events"] == [("deferred", f"{TEMPORARY} [the database did not answer]")]
    assert list_counts() == {("sp_acme", "deferred", "unavailable"): 1}


def test_recipients_put_off_are_told_beside_those_that_were_taken(gateway):
    client = gateway.open()
    replies = client.talk(MAIL, RCPT, CAROL, "RCPT TO:<dora@alpha.test>", "DATA")
    assert replies[3].startswith("452 ")
    reply = client.send_data(CLEAN)
    client.close()
    story = read_story(gateway)
    assert sorted(story["rows"]) == [
        ("bob@alpha.test", "delivering", ""),
        ("carol@alpha.test", "delivering", ""),
        ("dora@alpha.test", "unfinished", "too_many_recipients"),
    ]
    assert story["message"].trace_id == get_trace_id(reply)
    assert story["message"].size == len(CLEAN)


def test_whom_mail_was_put_off_for_finds_it_too(gateway):
    client = gateway.open()
    client.talk(MAIL, CAROL, "RCPT TO:<dora@alpha.test>", "RCPT TO:<Bob@alpha.test>")
    client.close()
    gateway.settle()
    with schema_context("sp_acme"):
        assert Recipient.objects.get(cause="too_many_recipients").mailbox.address == "bob@alpha.test"


def test_nobody_learns_of_another_providers_recipients(gateway):
    client = gateway.open()
    client.talk(MAIL, "RCPT TO:<you@elsewhere.test>", RCPT, "RCPT TO:<gus@gamma.test>")
    client.close()
    for schema, own in (("sp_acme", "bob@alpha.test"), ("sp_globex", "gus@gamma.test")):
        replies = read_story(gateway, schema)["replies"]
        assert [command for command, _ in replies] == ["MAIL FROM:<ann@sender.test>", f"RCPT TO:<{own}>"]
    assert list_unrouted(gateway) == [
        ("refused", "relay_denied", "550 5.7.1 Relaying denied: we take no mail for this domain", 1)
    ]


def test_what_was_refused_is_told_once(gateway):
    client = gateway.open()
    client.talk(MAIL, "RCPT TO:<you@elsewhere.test>", "QUIT")
    client.close()
    assert [cause for _, cause, *_ in list_unrouted(gateway)] == ["relay_denied"]


def test_a_sender_without_recipients_is_on_the_operators_record(gateway):
    client = gateway.open()
    client.talk(MAIL, "RSET", "MAIL FROM:<big@sender.test> SIZE=999999999", "RCPT TO:<you@elsewhere.test>")
    client.close()
    assert list_unrouted(gateway) == [
        ("unfinished", "reset", "", 1),
        ("refused", "too_big", "552 5.3.4 Message is larger than this server accepts", 1),
    ]


def test_recipients_named_before_mail_was_answered_are_on_record(gateway):
    gateway.run(gateway.gateway.directory.find("bob@alpha.test"))
    client = gateway.open()
    client.send(f"{MAIL} SIZE=999999999\r\n{RCPT}\r\nDATA\r\n".encode())
    replies = [client.read_reply() for _ in range(3)]
    assert replies[1:] == ["503 5.5.1 Send MAIL first"] * 2
    client.close()
    story = read_story(gateway)
    assert story["rows"] == [("bob@alpha.test", "refused", "too_big")]
    assert story["events"][0][0] == "refused"
    commands = [f"{MAIL} SIZE=999999999", "RCPT TO:<bob@alpha.test>", "DATA"]
    assert story["replies"] == [list(pair) for pair in zip(commands, replies, strict=True)]
    assert not Unrouted.objects.exists()


@pytest.mark.parametrize(
    ("deferral", "cause"),
    [
        (None, "no_room"),
        (load.OVERLOADED, "overload"),
        (load.NO_SPACE, "no_space"),
        (load.UNAVAILABLE, "unavailable"),
    ],
)
def test_whom_mail_is_put_off_for_is_on_their_providers_record(gateway, monkeypatch, deferral, cause):
    monkeypatch.setattr(gateway.services.memory, "has_room", lambda *_: deferral is not None)
    monkeypatch.setattr(type(gateway.services.load), "refuse_mail", lambda *_: deferral)
    client = gateway.open()
    said = client.talk(MAIL, RCPT, "RCPT TO:<gus@gamma.test>", "RCPT TO:<you@elsewhere.test>", "DATA", "QUIT")
    client.close()
    reply = str(deferral[0] if deferral else NO_ROOM)
    assert said[:5] == [SENDER_OK, reply, reply, reply, TEMPORARY]
    for schema, address in (("sp_acme", "bob@alpha.test"), ("sp_globex", "gus@gamma.test")):
        story = read_story(gateway, schema)
        assert story["rows"] == [(address, "unfinished", cause)]
        assert [kind for kind, _ in story["events"]] == ["deferred"]
        assert story["replies"][:3] == [ENVELOPE[0], [f"RCPT TO:<{address}>", reply], ["DATA", TEMPORARY]]
    assert list_unrouted(gateway) == [("deferred", cause, reply, 1)]
    assert list_counts()["sp_acme", "deferred", cause] == 1


def test_a_client_that_is_put_off_cannot_name_whom_it_likes(gateway, monkeypatch):
    monkeypatch.setattr(type(gateway.services.load), "refuse_mail", lambda *_: load.OVERLOADED)
    client = gateway.open()
    client.send(f"{MAIL}\r\n".encode() + b"".join(b"RCPT TO:<n%d@elsewhere.test>\r\n" % n for n in range(100)))
    said = list(iter(client.read_reply, ""))
    limit = gateway.services.limits.failed_recipients
    assert said == [SENDER_OK, *[str(load.OVERLOADED[0])] * limit, str(TOO_MANY_ERRORS)]
    rows = list_unrouted(gateway)
    assert sum(times for *_, times in rows) >= limit
    assert len(rows) <= MAX_UNROUTED + 1


def test_connections_without_mail_share_a_row(gateway):
    for _ in range(3):
        client = gateway.connect()
        client.talk("NOOP", "QUIT")
        client.close()
    http = gateway.connect()
    http.ask("GET / HTTP/1.1")
    http.close()
    assert sorted(list_unrouted(gateway)) == [
        ("deferred", "not_smtp", "421 4.7.0 This is an SMTP server, closing the connection", 1),
        ("unfinished", "no_mail", "", 3),
    ]
    replies = Unrouted.objects.get(cause="not_smtp").replies
    assert replies == [*OPENING, ["GET", "421 4.7.0 This is an SMTP server, closing the connection"]]


def test_a_flood_of_strangers_costs_a_few_rows_and_hides_no_client(gateway, monkeypatch):
    monkeypatch.setattr("quarantine.gateway.story.MAX_DIFFERENT", 3)
    client = gateway.open()
    for n in range(20):
        assert client.talk(f"MAIL FROM:<ann{n}@sender.test>", "RSET") == [SENDER_OK, "250 2.0.0 Ok"]
    client.close()
    gateway.settle()
    assert Unrouted.objects.count() < 15
    assert Unrouted.objects.aggregate(total=Sum("times"))["total"] == 20
    assert {str(ip) for ip in Unrouted.objects.values_list("client_ip", flat=True)} == {"127.0.0.1"}


def test_connections_without_mail_take_nobodys_place(gateway, monkeypatch):
    monkeypatch.setattr("quarantine.gateway.story.MAX_DIFFERENT", 3)
    for n in range(5):
        client = gateway.open(f"192.168.0.{n + 1}")
        client.close()
    client = gateway.open()
    client.talk(MAIL)
    client.close()
    gateway.settle()
    assert Unrouted.objects.get(cause="disconnected").sender == "ann@sender.test"


def abort(client) -> None:
    """End the connection by RST."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.stream.close()
    client.socket.close()


def test_a_message_whose_250_was_lost_is_kept_once(gateway):
    first = gateway.open()
    first.talk(MAIL, RCPT, CAROL, "DATA")
    first.send(CLEAN + b".\r\n")
    abort(first)
    gateway.settle()
    again = gateway.open()
    reply = again.mail("ann@sender.test", "Carol@alpha.test", "bob@alpha.test", data=CLEAN)
    again.close()
    story = read_story(gateway)
    assert get_trace_id(reply) == story["message"].trace_id
    assert [row[:2] for row in story["rows"]] == [("bob@alpha.test", "delivering"), ("carol@alpha.test", "delivering")]
    assert [kind for kind, _ in story["events"]] == ["accepted", "accepted", "sent_again"]
    assert list_counts() == {("sp_acme", "accepted", ""): 2, ("sp_acme", "repeated", "sent_again"): 2}


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "eve@sender.test"},
        {"recipients": ["bob@alpha.test", "carol@alpha.test"]},
        {"data": CLEAN + b"\r\n"},
        {"ip": "192.168.0.9"},
    ],
    ids=["sender", "recipients", "octets", "client"],
)
def test_what_differs_is_another_message(gateway, change):
    one = {"sender": "ann@sender.test", "recipients": ["bob@alpha.test"], "data": CLEAN, "ip": "192.168.0.8"}
    replies = []
    for mail in (one, one | change):
        client = gateway.open(mail["ip"])
        replies.append(client.mail(mail["sender"], *mail["recipients"], data=mail["data"]))
        client.close()
    assert len(set(map(get_trace_id, replies))) == 2


def test_our_own_trace_seen_twice_is_a_loop(gateway):  # D27
    own = b"X-Lazaret-Trace: 06H13MSA7MAATVZNZ6NH by lazaret.localhost\r\n"
    other = own.replace(b"lazaret.localhost", b"mx.other.test")
    client = gateway.open()
    assert client.mail(data=own + other + other + CLEAN).startswith("250 ")
    assert client.mail(data=own + own + CLEAN).startswith(str(RETURNED))
    client.close()
    with schema_context("sp_acme"):
        wait_until(lambda: Recipient.objects.filter(state="refused", cause="loop").exists())
