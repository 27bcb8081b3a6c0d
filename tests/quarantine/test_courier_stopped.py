"""A courier that is asked to stop while a server is slow."""

import threading

import pytest

from portal.stack.parts import list_parts
from quarantine.delivery import courier
from quarantine.models import Event, State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import send_off
from tests.quarantine.couriers import BOB, CAROL, get_row, wait_for_state
from tests.running_courier import CourierProcess, running_courier
from tests.smtp_sink import Reply, Sink


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(courier, "GRACE_SECONDS", 0.3)


def answer_once(sink: Sink, step: str, reply: Reply) -> threading.Event:
    """Have the next such step answered so; set when it is there."""
    seen = threading.Event()

    def answer(_: str) -> Reply:
        seen.set()
        return reply

    sink.on(step, answer, times=1)
    return seen


def list_recipients(sink: Sink) -> list[list[str]]:
    return [message.recipients for message in sink.messages]


@pytest.mark.usefixtures("short")
def test_what_a_server_is_still_digesting_is_waited_for_and_nothing_is_begun_meanwhile(sink, acme_committed, tmp_path):
    dotted = answer_once(sink, "DOT", Reply("250 2.0.0 at last", after=1.5))
    send_off(BOB)
    send_off(CAROL)
    with running_courier(tmp_path):
        assert dotted.wait(10)
    row = get_row(BOB)
    assert (row.state, row.reply, row.attempts) == (State.DELIVERED, "250 2.0.0 at last", 1)
    assert list_recipients(sink) == [[f"<{BOB}>"]]
    assert DeliveryJob.objects.get().claimed_by == ""
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED, CAROL)
    assert list_recipients(sink) == [[f"<{BOB}>"], [f"<{CAROL}>"]]


@pytest.mark.usefixtures("short")
def test_what_had_not_come_so_far_is_cut_off_and_arrives_once(sink, acme_committed, tmp_path, caplog):
    named = answer_once(sink, "RCPT", Reply("250 2.1.5 well", after=60))
    send_off(BOB)
    with running_courier(tmp_path):
        assert named.wait(10)
    assert get_row(BOB).state == State.DELIVERING
    assert "may_be_delivered_twice" not in caplog.text
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
    assert list_recipients(sink) == [[f"<{BOB}>"]]


@pytest.mark.usefixtures("short", "quick")
def test_what_is_cut_off_after_the_dot_is_told(sink, acme_committed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(courier, "ANSWER_SECONDS", 0.6)
    dotted = answer_once(sink, "DOT", Reply("250 2.0.0 too late", after=60))
    message = send_off(BOB)
    with running_courier(tmp_path):
        assert dotted.wait(10)
    assert f"may_be_delivered_twice provider=sp_acme trace={message.trace_id}" in caplog.text
    told = Event.objects.get(kind="deferred").text
    assert "(Lazaret was stopped) in the final dot (the message may arrive twice)" in told
    assert DeliveryJob.objects.get().claimed_by == ""
    with running_courier(tmp_path):
        assert wait_for_state(State.DELIVERED).attempts == 2


@pytest.mark.faults
def test_a_process_that_is_told_to_end_waits_for_a_server_that_takes_twelve_seconds(sink, acme_committed, tmp_path):
    dotted = answer_once(sink, "DOT", Reply("250 2.0.0 at last", after=12))
    send_off(BOB)
    process = CourierProcess(tmp_path)
    process.start()
    assert dotted.wait(20)
    assert process.stop() == 0
    assert (get_row(BOB).state, get_row(BOB).attempts) == (State.DELIVERED, 1)
    assert len(sink.messages) == 1


def test_the_supervisor_waits_for_it_and_systemd_for_both():
    [part] = [part for part in list_parts(web_socket=0, gateways=1, demo=False) if part.name == "courier"]
    ours = courier.ANSWER_SECONDS + courier.CUT_SECONDS + 2 * courier.RECORD_SECONDS
    assert ours < part.stop_seconds < 90
