"""Many questions at once: each is asked once, few at a time, and no server delays what is asked of another."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from quarantine.delivery import callout
from tests.quarantine.gateways import run_gateway, run_name_server
from tests.quarantine.policies import (
    NOT_VERIFIED,
    RECIPIENT_OK,
    UNKNOWN_MAILBOX,
    answer_rcpt,
    ask,
    choose,
    list_asked,
)
from tests.running_courier import wait_until
from tests.smtp_sink import Reply, Sink

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_name_server(), run_gateway() as running:
        yield running


def test_connections_kept_for_the_next_question_are_bounded(asking, server, monkeypatch):
    monkeypatch.setattr(asking.services.recipients._callout, "most_kept", 1)
    monkeypatch.setattr(callout, "IDLE_SECONDS", 60.0)
    with Sink() as other:
        choose("callout", asking, domain="beta.test", server_port=other.port)
        ask(asking, "new@alpha.test", "nobody@beta.test", "nobody@alpha.test")
        other.wait_for(lambda: "QUIT" in other.commands)
    assert "QUIT" not in server.commands


def test_a_dead_server_delays_nobody_else(asking, server):
    """Alpha's server says nothing for as long as it likes; beta's is asked meanwhile."""
    with Sink() as silent:
        silent.on("BANNER", Reply("220 late", after=30))
        choose("callout", asking, server_port=silent.port)
        choose("callout", asking, domain="beta.test", server_port=server.port)
        asking.services.recipients._callout.seconds = 20.0
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask, asking, "new@alpha.test")
            silent.wait_for(lambda: silent.connections == 1)
            assert ask(asking, "new@beta.test", "nobody@beta.test", "gus@gamma.test") == [
                RECIPIENT_OK,
                UNKNOWN_MAILBOX,
                RECIPIENT_OK,
            ]
            assert not waiting.done()
            silent.stop()
            assert waiting.result() == [NOT_VERIFIED]
        silent.start()


def test_the_same_question_is_asked_once_and_few_at_a_time(asking, server):
    server.on("MAIL", Reply("250 ok", after=0.1))
    asking.services.recipients._callout.seconds = 20.0
    names = ["new", "newer", *(f"guess{number}" for number in range(8))]
    with ThreadPoolExecutor(20) as threads:
        replies = list(threads.map(lambda name: ask(asking, f"{name}@alpha.test"), names * 2))
    assert sorted(list_asked(server)) == sorted(f"{name}@alpha.test" for name in names)
    assert replies == ([[RECIPIENT_OK]] * 2 + [[UNKNOWN_MAILBOX]] * 8) * 2
    assert server.most_open <= callout.CONNECTIONS


def test_conversations_with_all_servers_together_are_bounded(asking, server):
    going_on: list[int] = [0, 0]  # now, and at most

    def begin(_: str) -> Reply:
        going_on[0] += 1
        going_on[1] = max(going_on)
        return Reply("250 2.1.0 ok", after=0.1)

    def end(line: str) -> str | None:
        going_on[0] -= 1
        return answer_rcpt(line)

    asking.services.recipients._callout.room = asyncio.Semaphore(1)
    asking.services.recipients._callout.seconds = 20.0
    with Sink() as other, ThreadPoolExecutor(10) as threads:
        choose("callout", asking, domain="beta.test", server_port=other.port)
        for sink in (server, other):
            sink.off("RCPT")
            sink.on("MAIL", begin)
            sink.on("RCPT", end)
        names = [f"guess{number}@{domain}" for number in range(5) for domain in ("alpha.test", "beta.test")]
        assert list(threads.map(lambda name: ask(asking, name), names)) == [[UNKNOWN_MAILBOX]] * 10
    assert going_on[1] == 1
    assert other.connections


def test_more_questions_than_a_server_can_take_are_put_off_at_once(asking, server, monkeypatch):
    monkeypatch.setattr(callout, "WAITING", 2)
    monkeypatch.setattr(callout, "CONNECTIONS", 1)
    asking.services.recipients._callout.seconds = 20.0
    gate = threading.Event()
    server.on("EHLO", lambda _: gate.wait(20) and None)
    with ThreadPoolExecutor(10) as threads:
        first = threads.submit(ask, asking, "new@alpha.test")
        server.wait_for(lambda: server.commands)
        others = [threads.submit(ask, asking, f"guess{number}@alpha.test") for number in range(5)]
        wait_until(lambda: sum(other.done() for other in others) == 3)
        assert [other.result() for other in others if other.done()] == [[NOT_VERIFIED]] * 3
        gate.set()
        assert first.result() == [RECIPIENT_OK]
        assert sorted(other.result() for other in others) == [[NOT_VERIFIED]] * 3 + [[UNKNOWN_MAILBOX]] * 2
