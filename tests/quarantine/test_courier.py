"""The courier against a real server: what arrives, and what is written about it."""

import hashlib
import re
import socket
import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from django_tenants.utils import schema_context
from psycopg.conninfo import make_conninfo

from portal.tenants.database import get_conninfo
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine import metrics, queries, release
from quarantine.delivery import courier, desk, names, outcome, server
from quarantine.delivery.smtp import Patience
from quarantine.delivery.submit import submit
from quarantine.models import Content, Event, Message, MessageKind, Recipient, State
from quarantine.platform.models import DeliveryJob, Heartbeat, Lane
from tests.kept_mail import RAW, keep, send_off
from tests.running_courier import running_courier, wait_until
from tests.smtp_sink import CLOSE, TAKE_AND_CLOSE, Reply, Sink

HEAD_LINES = 5  # Received (three, folded or more), X-Lazaret-Trace
BOB, CAROL, BEA = "bob@alpha.test", "carol@alpha.test", "bea@beta.test"


@pytest.fixture
def sink(committed):
    """The server of every domain of the cast."""
    with Sink() as made:
        route(made)
        yield made


def route(sink: Sink, *names: str) -> None:
    domains = MailDomain.objects.filter(name__in=names) if names else MailDomain.objects.all()
    domains.update(server_host="127.0.0.1", server_port=sink.port)


@pytest.fixture
def quick(monkeypatch):
    """Pauses of parts of a second."""
    monkeypatch.setattr(outcome, "FIRST_PAUSE_SECONDS", 1)
    monkeypatch.setattr(outcome, "get_pause", lambda attempts: 0.2)
    monkeypatch.setattr(server, "FIRST_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(server, "LONGEST_PROBE_SECONDS", 0.2)


@pytest.fixture
def acme_committed(committed):
    with schema_context("sp_acme"):
        yield


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


def test_clean_mail_is_delivered_and_its_content_goes(sink, acme_committed, tmp_path):
    message = send_off(BOB, raw=RAW)
    with running_courier(tmp_path):
        [arrived] = sink.wait(1)
        row = wait_for_state(State.DELIVERED)
    assert (arrived.sender, arrived.recipients) == ("<spam@far.test>", ["<bob@alpha.test>"])
    assert get_body(arrived.raw) == RAW
    assert (row.reply, row.attempts) == ("250 2.0.0 taken as 1", 1)
    assert list_kinds() == ["delivered"]
    assert not DeliveryJob.objects.exists()
    assert not Content.objects.filter(message=message).exists()


def test_our_header_says_where_it_came_from(sink, acme_committed, tmp_path):
    message = send_off(BOB)
    with running_courier(tmp_path):
        [arrived] = sink.wait(1)
    head = arrived.raw[: -len(RAW)].decode()
    assert head.startswith(
        "Received: from mail.far.test (unknown [192.0.2.25])\r\n\tby lazaret.test (Lazaret) with ESMTP"
    )
    assert f" id {message.trace_id}\r\n\tfor <bob@alpha.test>;\r\n\t" in head
    assert head.endswith(f"X-Lazaret-Trace: {message.trace_id} by lazaret.test\r\n")


def test_tagged_mail_is_marked(sink, acme_committed, tmp_path):
    send_off(BOB, action="tag", category="spam", score=7.25)
    with running_courier(tmp_path):
        [arrived] = sink.wait(1)
    assert b"\r\nX-Spam-Flag: YES\r\nX-Lazaret-Verdict: spam; score=7.2\r\nFrom:" in arrived.raw


NASTY = b"A: b\r\n\r\n.\r\n..\r\n.x\r\n\0\xe9\xff\r\n" + b"l" * 5000 + b"\r\n\r\n"


def test_crlf_octets_arrive_as_they_are(sink, acme_committed, tmp_path):
    send_off(BOB, raw=NASTY)
    with running_courier(tmp_path):
        [arrived] = sink.wait(1)
    assert get_body(arrived.raw) == NASTY
    assert "BODY=8BITMIME" in arrived.parameters


SMUGGLERS = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n",
    b"\r\r\n.\r\r\n", b"\r\n.\r\n",
]  # fmt: skip


def test_no_second_message_is_smuggled_and_no_bare_cr_or_lf_is_sent(sink, acme_committed, tmp_path):
    for end in SMUGGLERS:
        send_off(
            BOB, raw=b"A: b\r\n\r\nx" + end + b"MAIL FROM:<ceo@alpha.test>\r\nRCPT TO:<bob@alpha.test>\r\nDATA\r\n"
        )
    with running_courier(tmp_path):
        arrived = sink.wait(len(SMUGGLERS))
        wait_until(lambda: not DeliveryJob.objects.exists())
    assert len(sink.messages) == len(SMUGGLERS)
    assert not any("ceo@alpha.test" in command for command in sink.commands)
    for message in arrived:
        assert message.wire.count(b"\r\n") == message.wire.count(b"\r") == message.wire.count(b"\n")


def test_a_release_is_released_only_after_250_and_octet_for_octet(sink, acme_committed, tmp_path):
    raw = b"A: b\r\n\r\nx\r\n.\r\nMAIL FROM:<ceo@alpha.test>\r\n"
    message = keep(BOB, raw=raw)
    sink.on("DOT", lambda _: Reply("250 2.0.0 fine", after=0.5), times=1)
    with running_courier(tmp_path):
        release.release(Recipient.objects.all(), by=BOB)
        sink.wait_for(lambda: "DATA" in sink.commands)
        assert get_row().state == State.RELEASING
        [arrived] = sink.wait(1)
        row = wait_for_state(State.RELEASED)
    assert hashlib.sha256(get_body(arrived.raw)).digest() == bytes(message.sha256)
    assert (row.reply, row.changed_by) == ("250 2.0.0 fine", BOB)
    assert list_kinds() == ["releasing", "released"]
    assert queries.read_raw(message) == raw  # to be looked at again


def test_the_null_sender_stays_null(sink, acme_committed, tmp_path):
    send_off(BOB, sender="")
    with running_courier(tmp_path):
        [arrived] = sink.wait(1)
    assert arrived.sender == "<>"


def test_several_recipients_share_a_transaction_and_not_their_fate(sink, acme_committed, tmp_path):
    send_off("dora@alpha.test", BOB, CAROL)
    answers = {"dora": "250 2.1.5 ok", "bob": "450 4.2.1 busy", "carol": "550 5.1.1 who?"}
    sink.on("RCPT", lambda line: answers[line.split("<")[1].split("@")[0]])
    with running_courier(tmp_path):
        sink.wait(1)
        wait_until(lambda: DeliveryJob.objects.count() == 1)
    assert [command for command in sink.commands if command.startswith(("MAIL", "DATA"))] == [
        sink.commands[1], "DATA"
    ]  # fmt: skip
    assert sink.messages[0].recipients == ["<dora@alpha.test>"]
    assert b"\tfor <" not in sink.messages[0].raw
    states = dict(Recipient.objects.values_list("address", "state"))
    assert states == {"dora@alpha.test": "delivered", BOB: "deferred", CAROL: "held"}
    assert get_row(CAROL).reply == "550 5.1.1 who?"
    assert sorted(list_kinds()) == ["deferred", "delivered", "server_refused"]
    job = DeliveryJob.objects.get()
    assert (job.attempts, job.claimed_by) == (1, "")
    assert timedelta(seconds=20) < job.due_at - timezone.now() < timedelta(seconds=40)
    assert Content.objects.exists()


@pytest.mark.parametrize("pipelining", [True, False])
def test_nobody_accepted_means_no_content_and_the_connection_goes_on(committed, acme_committed, tmp_path, pipelining):
    extensions = ("PIPELINING", "8BITMIME") if pipelining else ("8BITMIME",)
    with Sink(extensions=extensions) as sink:
        route(sink)
        sink.on("RCPT", "550 5.1.1 who?", times=1)
        send_off(BOB)
        send_off(CAROL)
        with running_courier(tmp_path):
            sink.wait(1)
            wait_until(lambda: not DeliveryJob.objects.exists())
        assert {get_row(BOB).state, get_row(CAROL).state} == {State.HELD, State.DELIVERED}
        assert len(sink.messages) == 1


@pytest.mark.parametrize("step", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize("answer", ["421 4.3.2 going down", "451 4.3.0 later", CLOSE])
def test_trouble_at_any_step_defers_and_is_delivered_once(  # O12
    sink, acme_committed, tmp_path, quick, step, answer
):
    send_off(BOB)
    sink.on(step, answer, times=1)
    with running_courier(tmp_path):
        row = wait_for_state(State.DELIVERED)
    assert row.attempts == 2
    assert len(sink.messages) == 1
    assert list_kinds() == ["deferred", "delivered"]
    text = Event.objects.get(kind="deferred").text
    assert text.startswith("4")
    assert answer == CLOSE or answer.split(" ", 1)[1] in text


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "DOT"])
def test_a_final_no_is_held_for_a_person(sink, acme_committed, tmp_path, step):
    send_off(BOB)
    sink.on(step, "554 5.7.1 never", times=1)
    with running_courier(tmp_path):
        row = wait_for_state(State.HELD)
        assert (row.reply, DeliveryJob.objects.count()) == ("554 5.7.1 never", 0)
        assert Content.objects.exists()
        assert release.release(Recipient.objects.all(), by="dora@alpha.test") == 1
        wait_for_state(State.RELEASED)


def test_a_final_no_in_the_banner_is_not_about_the_message(sink, acme_committed, tmp_path, quick):
    send_off(BOB)
    sink.on("BANNER", "554 5.3.2 not now", times=1)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
    assert Event.objects.filter(kind="deferred", text__contains="554 5.3.2 not now").count() == 1


def test_an_answer_lost_after_the_dot_is_said_to_be_a_possible_double(  # O14
    sink, acme_committed, tmp_path, quick, caplog
):
    message = send_off(BOB)
    sink.on("DOT", TAKE_AND_CLOSE, times=1)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
    assert len(sink.messages) == 2
    assert "may arrive twice" in Event.objects.get(kind="deferred").text
    [warning] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("may_be_delivered_twice")]
    assert warning.endswith(f"trace={message.trace_id} server=127.0.0.1:{sink.port}")


def test_a_silent_server_is_waited_for_only_so_long(sink, acme_committed, tmp_path, quick):
    send_off(BOB)
    sink.on("DATA", Reply("354 at last", after=30), times=1)
    with running_courier(tmp_path, Patience(data=0.3)):
        wait_for_state(State.DELIVERED)
    assert "no answer in time to the envelope" in Event.objects.get(kind="deferred").text


@pytest.mark.parametrize(
    "answer",
    ["250-one\r\n250-two\r\n250 three", "250", "250 " + "x" * 1000, "250 d\xe9j\xe0 \x07\x1b[2J", "250-a\r\n250"],
)
def test_odd_replies_are_understood_and_kept_clean(  # O17
    sink, acme_committed, tmp_path, answer
):
    send_off(BOB)
    sink.on("DOT", answer)
    with running_courier(tmp_path):
        row = wait_for_state(State.DELIVERED)
    assert row.reply.startswith("250")
    assert len(row.reply) <= 600
    assert row.reply.isprintable()


@pytest.mark.parametrize("answer", ["250-x\r\n" * 300 + "250 x", "hello", "250 " + "x" * 20_000, "354 what"])
def test_senseless_replies_defer(sink, acme_committed, tmp_path, quick, answer):
    send_off(BOB)
    sink.on("MAIL", answer, times=1)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
    assert len(sink.messages) == 1


def test_a_yes_before_the_content_was_sent_is_no_delivery(sink, acme_committed, tmp_path, quick):
    send_off(BOB)
    sink.on("DATA", "250 2.0.0 Ok", times=1)
    with running_courier(tmp_path):
        row = wait_for_state(State.DELIVERED)
    assert (row.attempts, len(sink.messages)) == (2, 1)
    assert "content accepted before it was sent" in Event.objects.get(kind="deferred").text


def test_a_server_away_defers_and_gets_it_when_it_is_back(committed, acme_committed, tmp_path, quick):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    MailDomain.objects.update(server_host="127.0.0.1", server_port=port)
    for address in (BOB, CAROL):
        send_off(address)
    keep("dora@alpha.test")
    release.release(Recipient.objects.filter(address="dora@alpha.test"), by="x")
    with running_courier(tmp_path):
        assert "cannot be reached" in wait_for_state(State.DEFERRED).reply
        wait_for_state(State.DEFERRED, CAROL)
        wait_until(lambda: get_row("dora@alpha.test").attempts > 0)
        assert get_row("dora@alpha.test").state == State.RELEASING
        with Sink(port=port) as sink:
            sink.wait(3)
            wait_for_state(State.DELIVERED)
            wait_for_state(State.RELEASED, "dora@alpha.test")


def test_what_waits_long_is_due_at_once_when_the_server_is_back(committed, acme_committed, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "FIRST_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(server, "LONGEST_PROBE_SECONDS", 0.2)
    with Sink() as sink:
        route(sink)
        sink.on("BANNER", "421 4.3.2 away", times=1)
        for _ in range(20):
            send_off(BOB)
        with running_courier(tmp_path):
            sink.wait(20)  # those that were told "not tried" had a pause of half a minute


def test_a_dead_server_is_asked_by_one_probe_and_delays_nobody(sink, acme_committed, tmp_path, quick):
    with Sink() as dead:
        route(dead, "alpha.test")
        dead.on("BANNER", CLOSE)
        for _ in range(60):
            send_off(BOB)
        with running_courier(tmp_path):
            wait_until(lambda: Recipient.objects.filter(state=State.DEFERRED).count() == 60)
            before = dead.connections
            for _ in range(50):
                send_off(BEA)
            sink.wait(50, seconds=5)
            assert dead.open <= 1
            wait_until(lambda: dead.connections >= before + 3)
            assert dead.most_open <= 5


def test_dead_name_servers_of_one_customer_stall_nobody_else(sink, acme_committed, tmp_path, quick, monkeypatch):
    asked, answer = threading.Event(), threading.Event()
    ask = socket.getaddrinfo

    def ask_or_hang(host, *args, **kwargs):
        if host == "dead.test":
            asked.set()
            answer.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ask(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", ask_or_hang)
    monkeypatch.setattr(names, "SECONDS", 2)
    MailDomain.objects.filter(name="alpha.test").update(server_host="dead.test")
    for _ in range(10):
        for lane in Lane.values:
            send_off(BOB, lane=lane)
    with running_courier(tmp_path):
        assert asked.wait(5)
        send_off(BEA, raw=b"A: b\r\n\r\n" + b"x\r\n" * 50_000)
        sink.wait(1, seconds=5)
        wait_until(lambda: Recipient.objects.filter(state=State.DEFERRED).count() == 30)
        answer.set()
    texts = list(Event.objects.filter(kind="deferred").values_list("text", flat=True))
    told = f"451 4.4.1 dead.test:{sink.port} cannot be looked up: no answer in time [dead.test:{sink.port}, 2."
    assert [text for text in texts if text.startswith(told)]


def test_a_name_is_tried_at_each_of_its_addresses(sink, acme_committed, tmp_path, monkeypatch):
    ask = socket.getaddrinfo

    def find(host, port, **kwargs):
        hosts = ("127.0.0.9", "127.0.0.1") if host == "mx.alpha.test" else (host,)
        return [found for address in hosts for found in ask(address, port, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    MailDomain.objects.filter(name="alpha.test").update(server_host="mx.alpha.test")
    send_off(BOB)
    with running_courier(tmp_path):
        sink.wait(1)
        assert wait_for_state(State.DELIVERED).attempts == 1


@pytest.mark.parametrize("step", ["BANNER", "EHLO"])
@pytest.mark.parametrize("answer", ["421 4.3.2 going down", "554 5.3.2 never", CLOSE])
def test_a_server_that_does_not_want_to_talk_is_asked_at_its_next_address(  # O12, O13
    sink, acme_committed, tmp_path, second, step, answer
):
    sink.on(step, answer)
    sink.on("HELO", answer)
    send_off(BOB)
    with running_courier(tmp_path):
        row = wait_for_state(State.DELIVERED)
    assert (row.attempts, sink.connections, len(second.messages)) == (1, 1, 1)
    assert list_attempts() == [
        f"250 2.0.0 taken as 1 [mx.alpha.test 127.0.0.2:{second.port}, not encrypted, N s]",
    ]


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize("answer", ["421 4.3.2 going down", CLOSE])
def test_after_an_address_broke_off_the_next_one_is_asked_first(  # O12
    sink, acme_committed, tmp_path, quick, second, step, answer
):
    sink.on(step, answer)
    send_off(BOB)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
    assert (len(sink.messages), len(second.messages)) == (0, 1)
    places = [place_in(text) for text in Event.objects.order_by("id").values_list("text", flat=True)]
    assert places == [f"mx.alpha.test 127.0.0.1:{sink.port}", f"mx.alpha.test 127.0.0.2:{sink.port}"]


@pytest.fixture
def second(sink, two_addresses):
    """What listens at the second address of the server of alpha.test."""
    with Sink(host="127.0.0.2", port=sink.port) as made:
        yield made


@pytest.fixture
def two_addresses(sink, monkeypatch):
    give_two_addresses(monkeypatch)


def give_two_addresses(monkeypatch) -> None:
    """The server of alpha.test has a name, and that has two addresses."""
    ask = socket.getaddrinfo

    def find(host, port, **kwargs):
        hosts = ("127.0.0.1", "127.0.0.2") if host == "mx.alpha.test" else (host,)
        return [found for address in hosts for found in ask(address, port, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    MailDomain.objects.filter(name="alpha.test").update(server_host="mx.alpha.test")


def place_in(text: str) -> str:
    return text.rpartition("[")[2].partition(",")[0]


def list_attempts() -> list[str]:
    """The lines of the trace, seconds as N."""
    texts = Event.objects.order_by("id").values_list("text", flat=True)
    return [re.sub(r"\d+\.\d\d s\]$", "N s]", text) for text in texts]


def test_the_trace_says_with_whom_and_how_each_attempt_was_made(committed, acme_committed, tmp_path, quick):
    with Sink(tls=True) as sink:
        route(sink)
        sink.on("RCPT", "450 4.2.1 busy", times=1)
        send_off(BOB)
        with running_courier(tmp_path):
            row = wait_for_state(State.DELIVERED)
    assert list_attempts() == [
        f"450 4.2.1 busy [127.0.0.1:{sink.port}, TLSv1.3, N s]",
        f"250 2.0.0 taken as 1 [127.0.0.1:{sink.port}, TLSv1.3, N s]",
    ]
    assert row.reply == "250 2.0.0 taken as 1"


def test_the_trace_says_of_whom_a_server_away_was_not_asked(committed, acme_committed, tmp_path, monkeypatch):
    monkeypatch.setattr(outcome, "get_pause", lambda attempts: 0.2)
    with Sink() as gone:
        port = gone.port
        route(gone)
        give_two_addresses(monkeypatch)
    send_off(BOB)
    server_ = f"mx.alpha.test:{port}"
    before = read_count("not_tried")
    with running_courier(tmp_path):
        wait_for_state(State.DEFERRED)
        send_off(CAROL)
        wait_until(lambda: get_row(CAROL).attempts > 0)
    first, *rest = [text for text in list_attempts() if "not tried" not in text]
    why = f"{server_} cannot be reached (Connection refused)"
    addresses = f"mx.alpha.test 127.0.0.1:{port} and mx.alpha.test 127.0.0.2:{port}"
    assert (first, rest) == (f"451 4.4.1 {why} [{addresses}, N s]", [])
    waiting = Event.objects.filter(recipient__address=CAROL).first()
    assert re.fullmatch(
        re.escape(f"451 4.4.1 not tried: {why} [{server_}, asked again in ") + r"(2\d|3[0-3]) s\]", waiting.text
    )
    assert read_count("not_tried") > before


def read_count(result: str) -> float:
    return metrics.DELIVERY_ATTEMPTS.labels("mail", result)._value.get()


def test_attempts_are_counted_by_lane_and_result(sink, acme_committed, tmp_path, quick):
    before = {result: read_count(result) for result in ("taken", "later", "refused")}
    answers = {"dora": "250 2.1.5 ok", "bob": "450 4.2.1 busy", "carol": "550 5.1.1 who?"}
    sink.on("RCPT", lambda line: answers[line.split("<")[1].split("@")[0]], times=3)
    send_off("dora@alpha.test", BOB, CAROL)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
        wait_until(lambda: not DeliveryJob.objects.exists())
    found = {result: read_count(result) - before[result] for result in before}
    assert found == {"taken": 2, "later": 1, "refused": 1}


def count_claims() -> int:
    return DeliveryJob.objects.exclude(claimed_by="").count()


def test_servers_that_greet_and_never_answer_do_not_fill_a_lane(sink, acme_committed, tmp_path, monkeypatch):
    monkeypatch.setattr(courier, "JOBS_IN_HAND", {"mail": 16, "release": 16, "digest": 16})
    with Sink() as silent:
        route(silent, "alpha.test")
        silent.on("MAIL", Reply("250 ok", after=60))
        for _ in range(60):
            send_off(BOB)
        with running_courier(tmp_path, Patience(command=20)) as running:
            silent.wait_for(lambda: silent.open)
            for _ in range(20):
                send_off(BEA)
            sink.wait(20, seconds=5)
            wait_until(lambda: count_claims() <= 4)
            assert silent.most_open == 1
            abandon(running)


def test_a_server_that_stops_answering_holds_what_is_under_way_alone(sink, acme_committed, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "PROGRESS_SECONDS", 0.5)
    monkeypatch.setattr(desk, "RENEW_SECONDS", 0.3)
    sink.on("DOT", None, times=3)
    sink.on("DOT", Reply("250 ok", after=60))
    for _ in range(60):
        send_off(BOB)
    with running_courier(tmp_path) as running:
        sink.wait(3)
        wait_until(lambda: count_claims() > 5)
        wait_until(lambda: count_claims() <= sink.open)
        abandon(running)


def abandon(running) -> None:
    """Have the courier stop without waiting for what is under way."""

    def cancel() -> None:
        for lane in running.lanes.values():
            for channel in lane.channels.values():
                for worker in list(channel.workers):
                    worker.cancel()

    running.loop.call_soon_threadsafe(cancel)


def test_a_backlog_of_mail_delays_neither_digest_nor_release(sink, acme_committed, tmp_path):
    sink.on("DOT", lambda _: Reply("250 ok", after=0.2))
    for _ in range(200):
        send_off(BOB)
    with running_courier(tmp_path):
        sink.wait(5)
        bob = Mailbox.objects.get(address=BOB)
        digest = submit(mailbox=bob, raw=b"A: digest\r\n\r\n", kind=MessageKind.DIGEST, lane=Lane.DIGEST, subject="D")
        keep(CAROL, raw=b"A: released\r\n\r\n")
        release.release(Recipient.objects.filter(address=CAROL), by="x")
        wait_until(lambda: digest.recipients.get().state == State.DELIVERED, 3)
        wait_for_state(State.RELEASED, CAROL)
        assert DeliveryJob.objects.filter(lane=Lane.MAIL).count() > 50


def test_connections_are_reused_and_grow_to_twenty(sink, acme_committed, tmp_path):
    sink.on("DOT", lambda _: Reply("250 ok", after=0.05))
    for _ in range(300):
        send_off(BOB)
    with running_courier(tmp_path):
        sink.wait(300)
        wait_until(lambda: not DeliveryJob.objects.exists())
    assert 5 < sink.most_open <= 20
    assert sink.connections <= 25


def test_a_connection_closed_while_idle_costs_no_attempt(sink, acme_committed, tmp_path):
    with running_courier(tmp_path):
        send_off(BOB)
        sink.wait(1)
        sink.on("MAIL", CLOSE, times=1)
        send_off(CAROL)
        sink.wait(2)
        assert wait_for_state(State.DELIVERED, CAROL).attempts == 1


def test_tls_is_used_where_offered(committed, acme_committed, tmp_path):
    with Sink(tls=True) as sink:
        route(sink)
        send_off(BOB)
        with running_courier(tmp_path):
            [arrived] = sink.wait(1)
        assert arrived.tls


def test_broken_tls_falls_back_to_plain_text(committed, acme_committed, tmp_path):
    with Sink(tls=True) as sink:
        route(sink)
        sink.on("STARTTLS", "454 4.7.0 no certificate")
        send_off(BOB)
        with running_courier(tmp_path):
            [arrived] = sink.wait(1)
            assert wait_for_state(State.DELIVERED).attempts == 1
        assert not arrived.tls


def test_a_message_too_large_for_the_server_is_not_sent(committed, acme_committed, tmp_path):
    with Sink(extensions=("PIPELINING", "SIZE 100")) as sink:
        route(sink)
        send_off(BOB, raw=RAW * 10)
        with running_courier(tmp_path):
            row = wait_for_state(State.HELD)
        assert row.reply.startswith("552 5.3.4")
        assert not any(command.startswith("MAIL") for command in sink.commands)


def test_large_messages_arrive_whole(sink, acme_committed, tmp_path):
    raw = b"A: b\r\n\r\n" + bytes(range(14, 256)) * 20_000 + b"\r\n"
    for _ in range(3):
        send_off(BOB, raw=raw)
    with running_courier(tmp_path):
        assert {get_body(message.raw) for message in sink.wait(3)} == {raw}


def test_addresses_beyond_ascii_need_a_server_that_knows_them(committed, acme_committed, tmp_path):
    with Sink() as sink, Sink(extensions=("PIPELINING",)) as old:
        route(sink, "alpha.test")
        route(old, "beta.test")
        send_off("böb@alpha.test")
        send_off("bêa@beta.test")
        with running_courier(tmp_path):
            [arrived] = sink.wait(1)
            row = wait_for_state(State.HELD, "bêa@beta.test")
        assert "SMTPUTF8" in arrived.parameters
        assert row.reply.startswith("553 5.6.7")


def test_after_five_days_mail_is_held_and_not_lost(sink, acme_committed, tmp_path):
    send_off(BOB)
    DeliveryJob.objects.update(created_at=timezone.now() - timedelta(days=5, minutes=1))
    sink.on("RCPT", "452 4.2.2 full")
    with running_courier(tmp_path):
        row = wait_for_state(State.HELD)
    assert row.reply == "given up after 5 days: 452 4.2.2 full"
    assert Content.objects.exists()


def test_damaged_content_is_not_sent(sink, acme_committed, tmp_path):
    message = send_off(BOB)
    Message.objects.filter(pk=message.pk).update(sha256=b"x" * 32)
    with running_courier(tmp_path):
        row = wait_for_state(State.HELD)
    assert row.reply.startswith("554 5.6.0")
    assert not sink.messages


@pytest.mark.parametrize("state", ["deleted", "expired", "delivered", "released", "quarantined"])
def test_nothing_is_sent_for_a_row_that_waits_for_nothing(sink, acme_committed, tmp_path, state):
    send_off(BOB)
    Recipient.objects.update(state=state)
    with running_courier(tmp_path):
        wait_until(lambda: not DeliveryJob.objects.exists())
    assert get_row().state == state
    assert not sink.messages


def test_a_domain_without_server_waits(committed, acme_committed, tmp_path):
    MailDomain.objects.update(server_host="")
    send_off(BOB)
    with running_courier(tmp_path):
        assert "no mail server" in wait_for_state(State.DEFERRED).reply


def test_mail_is_never_sent_to_ourselves(sink, acme_committed, tmp_path, settings):
    settings.SMTP_ADDRESS = settings.SMTP_ADDRESS.__class__("127.0.0.1", sink.port)
    send_off(BOB)
    with running_courier(tmp_path):
        assert "5.4.6" in wait_for_state(State.DEFERRED).reply
    assert not sink.connections


def test_providers_go_their_own_ways(sink, committed, tmp_path):
    with schema_context("sp_globex"):
        send_off("gus@gamma.test", raw=b"A: globex\r\n\r\n")
    with schema_context("sp_acme"):
        send_off(BOB, raw=b"A: acme\r\n\r\n")
    with running_courier(tmp_path):
        sink.wait(2)
        for schema in ("sp_globex", "sp_acme"):
            with schema_context(schema):
                wait_until(lambda: Recipient.objects.get().state == State.DELIVERED)
                assert list_kinds() == ["delivered"]


def test_a_waiting_courier_is_woken_by_the_commit(sink, acme_committed, tmp_path, monkeypatch):
    monkeypatch.setattr("quarantine.delivery.courier.POLL_SECONDS", 60)
    with running_courier(tmp_path):
        wait_until(lambda: Heartbeat.objects.filter(part="courier").exists())
        send_off(BOB)
        sink.wait(1, seconds=5)
        send_off(CAROL)
        sink.wait(2, seconds=5)


def test_two_couriers_share_the_work(sink, acme_committed, tmp_path):
    for number in range(200):
        send_off(BOB, raw=f"A: {number}\r\n\r\n".encode())
    with running_courier(tmp_path), running_courier(tmp_path):
        sink.wait(200)
        wait_until(lambda: not DeliveryJob.objects.exists())
    assert len({get_body(message.raw) for message in sink.messages}) == len(sink.messages) == 200


def test_a_stopped_courier_leaves_no_claims(sink, acme_committed, tmp_path):
    sink.on("DOT", lambda _: Reply("250 ok", after=0.3))
    for _ in range(100):
        send_off(BOB)
    with running_courier(tmp_path):
        sink.wait(3)
    assert DeliveryJob.objects.exists()
    assert not DeliveryJob.objects.exclude(claimed_by="").exists()
    assert Recipient.objects.filter(state=State.DELIVERED).count() == len(sink.messages)


def test_an_address_cannot_smuggle_a_command(sink, acme_committed, tmp_path):
    for address in ("bob> NOTIFY=NEVER@alpha.test", "bo b@alpha.test", "bob\r\nRCPT TO:<eve@far.test>@alpha.test"):
        send_off(address)
    send_off('"bo b"@alpha.test')
    with running_courier(tmp_path):
        sink.wait(1)
        wait_until(lambda: not DeliveryJob.objects.exists())
    assert [message.recipients for message in sink.messages] == [['<"bo b"@alpha.test>']]
    assert Recipient.objects.filter(state=State.HELD, reply__startswith="553 5.1.3").count() == 3


@pytest.mark.faults
def test_a_database_that_goes_away_loses_and_doubles_nothing(sink, acme_committed, tmp_path):
    sink.on("DOT", lambda _: Reply("250 ok", after=0.05))
    for _ in range(150):
        send_off(BOB)
    with running_courier(tmp_path):
        sink.wait(20)
        with no_database():
            time.sleep(3)
        assert len(sink.messages) < 150
        sink.wait(150, seconds=60)
        wait_until(lambda: not DeliveryJob.objects.exists(), 60)
    assert len({message.raw for message in sink.messages}) == len(sink.messages) == 150
    assert Recipient.objects.filter(state=State.DELIVERED).count() == 150


@contextmanager
def refusing(table: str, condition: str, sqlstate: str):
    """A database that refuses to change such rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING"
            f" ERRCODE = '{sqlstate}', MESSAGE = 'no', DETAIL = 'Row contains (' || row_to_json(OLD) || ').'; END $$;"
            f" CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION refuse CASCADE")


def test_outcomes_wait_while_the_database_is_read_only(sink, acme_committed, tmp_path, caplog):
    with running_courier(tmp_path), refusing("quarantine_recipient", "true", "25006"):
        for address in (BOB, CAROL):
            send_off(address)
        sink.wait(2)
        wait_until(lambda: "outcomes_wait" in caplog.text)
        connection.cursor().execute("DROP TRIGGER refuse ON quarantine_recipient")
        assert wait_for_state(State.DELIVERED).attempts == 1
        wait_for_state(State.DELIVERED, CAROL)
    assert len(sink.messages) == 2


def test_an_outcome_that_is_refused_keeps_nobody_and_is_tried_again(
    sink, acme_committed, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(desk, "REFUSED_RETRY_SECONDS", 0.3)
    sink.on("RCPT", lambda line: "550 5.1.1 who?" if "bea" in line else None)
    with running_courier(tmp_path), refusing("quarantine_recipient", f"old.address <> '{CAROL}'", "23514"):
        for address in (BOB, BEA, CAROL):
            send_off(address)
        wait_for_state(State.DELIVERED, CAROL)
        assert {get_row(BOB).state, get_row(BEA).state} == {State.DELIVERING}
        connection.cursor().execute("DROP TRIGGER refuse ON quarantine_recipient")
        wait_for_state(State.DELIVERED)
        wait_for_state(State.HELD, BEA)
    assert len(sink.messages) == 2
    assert not DeliveryJob.objects.exists()
    assert "CheckViolation sqlstate=23514" in caplog.text
    assert BOB not in caplog.text


def test_a_fault_of_ours_is_told_without_the_mail(sink, acme_committed, tmp_path, quick, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError(BOB)

    monkeypatch.setattr("quarantine.delivery.letter.restore", fail)
    send_off(BOB)
    with running_courier(tmp_path):
        assert "our own fault" in wait_for_state(State.DEFERRED).reply
    assert "delivery_failed provider=sp_acme" in caplog.text
    assert "RuntimeError" in caplog.text
    assert BOB not in caplog.text


@contextmanager
def no_database():
    """No connection but the test's own lives, and no new one is let in."""
    name = connection.settings_dict["NAME"]
    with psycopg.connect(make_conninfo(get_conninfo(), dbname="postgres"), autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        try:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'lazaret-%%' AND datname = %s",
                [name],
            )
            yield
        finally:
            other.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
