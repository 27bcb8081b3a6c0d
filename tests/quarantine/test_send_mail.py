"""The sender: octets arrive as they are, every reply is reported, and the exit code tells."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session, syntax
from django.core.management import call_command
from django.core.management.base import CommandError

from portal.settings.environment import Address
from portal.stack.postgres import find_free_port
from quarantine.management.mailfiles import find_sender, make_wire_octets
from quarantine.management.sender import stuff

TRACE = "01ARZ3NDEKTSV4RRFFQ6"


class Server(SMTP):
    """A server that offers XCLIENT and takes long lines, as our gateway does."""

    line_length_limit = 65536

    @syntax("XCLIENT ADDR=ip")
    async def smtp_XCLIENT(self, arg: str) -> None:
        self.session.peer = (arg.removeprefix("ADDR="), 0)
        self._set_post_data_state()
        await self.push("220 again")


class Handler:
    """Remembers what arrived; recipients and contents may ask for other replies."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str, list[str], bytes]] = []
        self.open = self.most = 0
        self.lock = threading.Lock()

    async def handle_EHLO(self, server, session: Session, envelope, hostname: str, responses: list[str]):
        session.host_name = hostname
        return [*responses[:-1], "250-XCLIENT ADDR", responses[-1]]

    async def handle_RCPT(self, server, session, envelope: Envelope, address: str, options) -> str:
        if address.startswith("unknown"):
            return "550 5.1.1 No such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session: Session, envelope: Envelope) -> str:
        if b"later" in envelope.content:
            return "451 4.3.0 Try again later"
        self.arrived.append((session.peer[0], envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return f"250 2.0.0 Kept as {TRACE}"


class LocalController(Controller):
    def factory(self) -> Server:
        return Server(self.handler, enable_SMTPUTF8=True, data_size_limit=None)


@pytest.fixture
def server() -> Iterator[tuple[Handler, str]]:
    controller = LocalController(Handler(), hostname="127.0.0.1", port=find_free_port())
    controller.start()
    try:
        yield controller.handler, f"127.0.0.1:{controller.port}"
    finally:
        controller.stop()


def send(folder, server: str, *options: str) -> dict:
    output = io.StringIO()
    try:
        call_command(
            "send_mail", str(folder), "--to=bob@alpha.test", f"--server={server}", "--json", *options, stdout=output
        )
    finally:
        send.output = output.getvalue()
    return json.loads(send.output)


CONTENTS = [
    b"From: a@x.test\n\nplain\n",
    b"From: a@x.test\n\n.dot\n..dots\n.\nafter\n",
    b"From: a@x.test\r\n\r\nCRLF and no end",
    b"From: a@x.test\n\n8-bit \xff\xfe and a long line " + b"x" * 20_000 + b"\n",
    b".\n",
    b"From a@x.test Mon Jan  1 00:00:00 2007\nSubject: mbox\n\nFrom here on\n",
]


def test_octets_arrive_as_they_are(tmp_path, server):
    handler, address = server
    for number, content in enumerate(CONTENTS):
        (tmp_path / f"{number}.eml").write_bytes(content)
    result = send(tmp_path, address, "--concurrency=1")
    assert [arrived[3] for arrived in handler.arrived] == [make_wire_octets(content) for content in CONTENTS]
    assert result["totals"] == {"2xx": len(CONTENTS)}
    assert {row["trace_id"] for row in result["messages"]} == {TRACE}


def test_line_ends_are_left_alone_where_asked(tmp_path, server):
    handler, address = server
    content = b"From x\nSubject: bare\n.\n\r\r\n.\r\nend\r\n"
    (tmp_path / "bare.eml").write_bytes(content)
    send(tmp_path, address, "--as-is", "--from=a@x.test")
    assert handler.arrived[0][3] == content


def test_files_are_sent_sorted_and_only_as_many_as_asked(tmp_path, server):
    (tmp_path / "b").mkdir()
    for name in ("b/2", "a", "b/1", "c"):
        (tmp_path / name).write_bytes(b"Subject: x\n\n")
    result = send(tmp_path, server[1], "--limit=3", "--concurrency=1")
    assert [row["file"] for row in result["messages"]] == ["a", "b/1", "b/2"]


def test_every_reply_is_reported_and_the_command_fails(tmp_path, server):
    handler, address = server
    (tmp_path / "1").write_bytes(b"Subject: x\n\nfine\n")
    (tmp_path / "2").write_bytes(b"Subject: x\n\nlater\n")
    with pytest.raises(CommandError, match="1 of 2 messages did not get 250"):
        send(tmp_path, address, "--to=unknown@alpha.test")
    result = json.loads(send.output)
    assert result["totals"] == {"2xx": 1, "4xx": 1}
    rows = {row["file"]: row for row in result["messages"]}
    assert rows["2"]["reply"] == "4.3.0 Try again later"
    assert rows["1"]["refused"] == [{"recipient": "unknown@alpha.test", "reply": "550 5.1.1 No such mailbox"}]
    assert [arrived[2] for arrived in handler.arrived] == [["bob@alpha.test"]]


def test_refusal_that_is_expected_is_no_failure(tmp_path, server):
    (tmp_path / "1").write_bytes(b"Subject: x\n\nlater\n")
    assert send(tmp_path, server[1], "--expect=4")["totals"] == {"4xx": 1}


def test_client_address_is_told_by_xclient(tmp_path, server):
    handler, address = server
    for name in "12":
        (tmp_path / name).write_bytes(b"Subject: x\n\n")
    send(tmp_path, address, "--client-ip=192.0.2.7")
    assert [arrived[0] for arrived in handler.arrived] == ["192.0.2.7", "192.0.2.7"]


def test_server_that_is_away_is_no_answer(tmp_path):
    (tmp_path / "1").write_bytes(b"Subject: x\n\n")
    with pytest.raises(CommandError, match="1 of 1 messages"):
        send(tmp_path, f"127.0.0.1:{find_free_port()}")
    assert json.loads(send.output)["totals"] == {"no answer": 1}


def test_hundreds_over_many_connections_are_all_accounted_for(tmp_path, server):
    handler, address = server
    for number in range(300):
        (tmp_path / f"{number:03}").write_bytes(b"Subject: %d\n\n" % number)
    result = send(tmp_path, address, "--concurrency=20")
    assert result["totals"] == {"2xx": 300}
    assert {arrived[3] for arrived in handler.arrived} == {b"Subject: %d\r\n\r\n" % number for number in range(300)}


@pytest.mark.parametrize(
    ("raw", "sender"),
    [
        (b"Return-Path: <a@x.test>\nFrom: b@x.test\n\n", "a@x.test"),
        (b"Return-Path: <>\nFrom: b@x.test\n\n", ""),
        (b"From c@x.test Mon Jan  1 00:00:00 2007\nFrom: b@x.test\n\n", "c@x.test"),
        (b"From: =?utf-8?q?J=C3=B6rg?= <b@x.test>\n\n", "b@x.test"),
        (b"From: \xff\xfe <b\xff@x.test>\n\n", ""),
        (b"Subject: nobody\n\n", ""),
        (b"", ""),
    ],
)
def test_envelope_sender_is_what_the_file_tells(raw, sender):
    assert find_sender(raw) == sender


@pytest.mark.parametrize(
    ("raw", "wire"),
    [
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.\r\n.b\r\n", b"a\r\n..\r\n..b\r\n.\r\n"),
        (b"a\n.\nb", b"a\n.\nb\r\n.\r\n"),
        (b"", b".\r\n"),
    ],
)
def test_only_dots_that_begin_a_line_are_stuffed(raw, wire):
    assert stuff(raw) == wire


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--concurrency=101"], "--concurrency must be from 1 to 100."),
        (["--client-ip=300.1.1.1"], "--client-ip '300.1.1.1' is no IP address."),
        (["--server=nowhere"], "--server is 'nowhere'; it must be host:port, such as 127.0.0.1:2525."),
    ],
)
def test_wrong_option_is_one_sentence(tmp_path, options, sentence):
    (tmp_path / "1").write_bytes(b"")
    with pytest.raises(CommandError) as caught:
        call_command("send_mail", str(tmp_path), "--to=bob@alpha.test", *options)
    assert str(caught.value) == sentence


def test_gateway_beyond_loopback_must_be_named(tmp_path, settings):
    settings.SMTP_ADDRESS = Address("192.0.2.1", 25)
    with pytest.raises(CommandError, match="name it with --server"):
        call_command("send_mail", str(tmp_path), "--to=bob@alpha.test")
