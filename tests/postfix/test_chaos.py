"""Postfix's smtp-sink plays broken servers of customers: every message arrives once they are well, or is held."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django_tenants.utils import schema_context

from portal.stack.process import die_with_parent, find_free_port
from portal.tenants.models import MailDomain
from quarantine.delivery import desk, outcome, server
from quarantine.models import Event, Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import send_off
from tests.postfix.instance import SBIN
from tests.running import is_listening
from tests.running_courier import running_courier, wait_until

STEPS = ("connect", "ehlo,helo", "mail", "rcpt", "data", ".")
LETTERS = 5  # at each step


@pytest.fixture(autouse=True)
def port(committed, monkeypatch) -> Iterator[int]:
    """Of the server of every domain; a courier tries again after parts of a second."""
    monkeypatch.setattr(desk, "RENEW_SECONDS", 0.5)
    monkeypatch.setattr(outcome, "get_pause", lambda attempts: 0.2)
    monkeypatch.setattr(server, "FIRST_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(server, "LONGEST_PROBE_SECONDS", 0.2)
    found = find_free_port()
    MailDomain.objects.update(server_host="127.0.0.1", server_port=found)
    with schema_context("sp_acme"):
        yield found


@contextmanager
def run_sink(port: int, *options: str) -> Iterator[None]:
    with subprocess.Popen(
        ["smtp-sink", "-u", "root", *options, f"127.0.0.1:{port}", "100"],
        env={"PATH": SBIN},
        preexec_fn=die_with_parent(15),
    ) as sink:
        try:
            wait_until(lambda: is_listening(port))
            yield
        finally:
            sink.terminate()
    wait_until(lambda: not is_listening(port))


def send_letters(step: str) -> dict[str, int]:
    """Some letters: what stands in them, and the key of each."""
    return {name: send_letter(name) for name in (f"{step}-{number}" for number in range(LETTERS))}


def send_letter(name: str) -> int:
    raw = f"From: a@far.test\r\nX-Letter: {name}\r\n\r\n{name}\r\n".encode()
    return send_off("bob@alpha.test", raw=raw).pk


def count_arrived(folder: Path) -> Counter[str]:
    return Counter(
        name for path in folder.iterdir() for name in re.findall(r"^X-Letter: (\S+)", path.read_text(), re.M)
    )


def wait_until_tried(letters: dict[str, int]) -> None:
    """The trace of each says that it was tried, or that its server was down."""
    tried = Event.objects.filter(message_id__in=letters.values(), kind="deferred")
    wait_until(lambda: tried.values("message_id").distinct().count() == len(letters), 30)


@pytest.mark.parametrize("option", ["-r", "-Q", "-q"], ids=["4xx", "421 and gone", "gone"])
def test_a_server_that_fails_at_every_step_loses_and_doubles_nothing(port, tmp_path, option):
    """O12, O14."""
    sent: dict[str, int] = {}
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    with running_courier(tmp_path):
        for step in STEPS:
            with run_sink(port, option, step):
                letters = send_letters(step)
                wait_until_tried(letters)
            sent |= letters
        assert not Recipient.objects.filter(state__in=[State.HELD, State.DELIVERED]).exists()
        with run_sink(port, "-d", f"{arrived}/"):
            wait_until(lambda: not DeliveryJob.objects.exists(), 60)
    assert count_arrived(arrived) == Counter(sent.keys())
    assert set(Recipient.objects.values_list("state", flat=True)) == {State.DELIVERED}


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "."])
def test_what_a_server_refuses_for_good_is_held_with_its_words(port, tmp_path, step):
    with running_courier(tmp_path), run_sink(port, "-f", step, "-B", "550 5.7.1 Not this one"):
        send_letters(step)
        wait_until(lambda: Recipient.objects.filter(state=State.HELD).count() == LETTERS)
    assert set(Recipient.objects.values_list("reply", flat=True)) == {"550 5.7.1 Not this one"}
    assert not DeliveryJob.objects.exists()


@pytest.mark.parametrize("step", ["connect", "ehlo,helo"])
def test_a_5xx_before_the_mail_says_nothing_about_the_mail(port, tmp_path, step):
    """O13: it waits, and is neither held nor bounced."""
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    with running_courier(tmp_path):
        with run_sink(port, "-f", step):
            sent = send_letters(step)
            wait_until_tried(sent)
            assert set(Recipient.objects.values_list("state", flat=True)) == {State.DEFERRED}
        with run_sink(port, "-d", f"{arrived}/"):
            wait_until(lambda: not DeliveryJob.objects.exists(), 60)
    assert count_arrived(arrived) == Counter(sent.keys())


def test_a_server_that_takes_its_time_gets_everything_once(port, tmp_path):
    """Every second answer is late by a second."""
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    with running_courier(tmp_path), run_sink(port, "-d", f"{arrived}/", "-W", ".:1:2"):
        sent = send_letters("slow")
        wait_until(lambda: not DeliveryJob.objects.exists(), 60)
    assert count_arrived(arrived) == Counter(sent.keys())
