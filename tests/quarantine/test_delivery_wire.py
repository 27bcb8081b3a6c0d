"""What goes over the wire, and what is made of an answer: pure functions."""

from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine.delivery.outcome import Job, Result, decide, get_pause
from quarantine.delivery.smtp import Reply
from quarantine.delivery.wire import Mark, Origin, encode, make_head, normalise
from quarantine.models import Recipient
from quarantine.trace_id import ALPHABET, make_trace_id, read_trace_id

AT = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
ENDS = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"x", b"\0", b"\xff", b"\r\n.\r\n"])).map(b"".join)


def unstuff(wire: bytes) -> bytes:
    """What a receiver makes of it (RFC 5321 4.5.2)."""
    return b"".join(line.removeprefix(b".") for line in wire.splitlines(keepends=True))


@given(ENDS)
def test_nothing_in_a_message_ends_it_or_is_a_bare_cr_or_lf(raw):
    wire = encode(b"A: b\r\n", raw)
    assert wire.count(b"\r\n") == wire.count(b"\r") == wire.count(b"\n")
    assert wire.endswith(b"\r\n")
    assert b"\r\n.\r\n" not in wire
    assert not wire.startswith(b".\r\n")


@given(st.lists(st.binary().map(lambda line: line.translate(None, b"\r\n"))))
def test_crlf_lines_arrive_as_they_are(lines):
    raw = b"".join(line + b"\r\n" for line in lines)
    wire = encode(b"", raw)
    assert b"".join(line.removeprefix(b".") + b"\r\n" for line in wire.split(b"\r\n")[:-1]) == raw


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (b"", b""),
        (b"x", b"x\r\n"),
        (b"a\nb\rc\r\n", b"a\r\nb\r\nc\r\n"),
        (b"a\r\r\nb\n\r", b"a\r\n\r\nb\r\n\r\n"),
    ],
)
def test_bare_line_ends_become_crlf(raw, sent):
    assert normalise(raw) == sent


def read_head(origin: Origin, *recipients: str, mark: Mark | None = None):
    head = make_head(origin, hostname="mx.lazaret.test", recipients=recipients, mark=mark)
    assert all(len(line) < 998 for line in head.split(b"\r\n"))
    return message_from_bytes(head + b"\r\n", policy=policy.SMTP)


def test_received_says_how_it_was_protected_and_names_one_recipient_only():
    origin = Origin("01JTRACE", AT, "2001:db8::1", "mail.far.test", "mail.far.test", "TLSv1.3 TLS_AES_256_GCM_SHA384")
    received = read_head(origin, "bob@alpha.test")["Received"]
    assert "from mail.far.test (mail.far.test [IPv6:2001:db8::1]; TLSv1.3" in received
    assert "with ESMTPS id 01JTRACE" in received
    assert "for <bob@alpha.test>" in received
    assert received.endswith("Sun, 01 Nov 2026 12:30:00 +0000")
    assert "for <" not in read_head(origin, "bob@alpha.test", "carol@alpha.test")["Received"]


def test_our_own_mail_came_from_nobody():
    head = read_head(Origin("01JTRACE", AT), "bob@alpha.test")
    assert head["Received"].startswith("by mx.lazaret.test (Lazaret) with ESMTP id 01JTRACE")
    assert head.keys() == ["Received", "X-Lazaret-Trace"]


@given(st.text(), st.text(), st.text())
def test_strangers_write_no_header_lines(helo, name, tls):
    head = read_head(Origin("01JTRACE", AT, "192.0.2.1", name, helo, tls), mark=Mark("spam", 7.25))
    assert head.keys() == ["Received", "X-Lazaret-Trace", "X-Spam-Flag", "X-Lazaret-Verdict"]
    assert head["X-Lazaret-Verdict"] == "spam; score=7.2"


def make_job(**fields) -> Job:
    return Job(**{"id": 1, "schema": "s", "recipient_id": 2, "domain_id": 3, "lane": "mail", "attempts": 0} | fields)


@pytest.mark.parametrize(
    ("code", "result"),
    [(250, Result.TAKEN), (251, Result.TAKEN), (421, Result.LATER), (450, Result.LATER), (550, Result.REFUSED)],
)
def test_the_answer_decides(code, result):
    outcome = decide(make_job(created_at=AT), Reply(code, "text"), AT)
    assert (outcome.result, outcome.reply) == (result, f"{code} text")
    assert (outcome.pause > 0) == (result is Result.LATER)


def test_five_days_of_later_is_a_no():
    job, reply = make_job(created_at=AT), Reply(450, "later")
    assert decide(job, reply, AT + timedelta(days=5)).result is Result.LATER
    assert decide(job, reply, AT + timedelta(days=5, seconds=1)).result is Result.REFUSED
    assert decide(job, Reply(250, "ok"), AT + timedelta(days=9)).result is Result.TAKEN


def test_giving_up_fits_its_column_however_much_the_server_said():
    outcome = decide(make_job(created_at=AT), Reply(450, "x" * 600), AT + timedelta(days=6))
    assert outcome.reply.startswith("given up after 5 days: 450 x")
    assert len(outcome.reply) <= Recipient._meta.get_field("reply").max_length


def test_pauses_grow_to_an_hour():
    pauses = [get_pause(attempts) for attempts in (0, 1, 2, 6, 7, 100)]
    for pause, wanted in zip(pauses, (30, 60, 120, 1920, 3600, 3600), strict=True):
        assert wanted * 0.9 <= pause <= wanted * 1.1
    hours = sum(get_pause(attempts) for attempts in range(200)) / 3600
    assert hours > 5 * 24  # so the attempts last for five days


def test_trace_ids_sort_by_time_and_are_read_as_typed():
    ids = [make_trace_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {len(name) for name in ids} == {20}
    assert [name[:9] for name in ids] == sorted(name[:9] for name in ids)
    assert set("".join(ids)) <= set(ALPHABET)
    assert read_trace_id(" o1il-".strip("-")) == "0111"
