"""Servers that are away, silent, odd or of two minds, and what the courier makes of it."""

import re
import socket
import threading

import pytest

from portal.tenants.models import MailDomain
from quarantine import metrics, release
from quarantine.delivery import courier, desk, names, outcome, server
from quarantine.delivery.smtp import Patience
from quarantine.models import Content, Event, Recipient, State
from quarantine.platform.models import DeliveryJob, Lane
from tests.kept_mail import keep, send_off
from tests.quarantine.couriers import BEA, BOB, CAROL, get_row, list_kinds, route, wait_for_state
from tests.running_courier import running_courier, wait_until
from tests.smtp_sink import CLOSE, TAKE_AND_CLOSE, Reply, Sink


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
    give_addresses(monkeypatch, "127.0.0.9", "127.0.0.1")
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
    give_addresses(monkeypatch, "127.0.0.1", "127.0.0.2")


def give_addresses(monkeypatch, *addresses: str) -> None:
    """The server of alpha.test has a name, and that has these addresses."""
    ask = socket.getaddrinfo

    def find(host, port, **kwargs):
        hosts = addresses if host == "mx.alpha.test" else (host,)
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
        give_addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
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
    monkeypatch.setattr(courier, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(courier, "ANSWER_SECONDS", 0.4)
    sink.on("DOT", None, times=3)
    sink.on("DOT", Reply("250 ok", after=60))
    for _ in range(60):
        send_off(BOB)
    with running_courier(tmp_path):
        sink.wait(3)
        wait_until(lambda: count_claims() > 5)
        wait_until(lambda: count_claims() <= sink.open)


def abandon(running) -> None:
    """Have the courier stop without waiting for what is under way."""

    def cancel() -> None:
        for lane in running.lanes.values():
            for channel in lane.channels.values():
                for worker in list(channel.workers):
                    worker.cancel()

    running.loop.call_soon_threadsafe(cancel)
