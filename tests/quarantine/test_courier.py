"""The courier against a real server: what arrives, and what is written about it."""

import hashlib
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox
from quarantine import queries, release
from quarantine.delivery.submit import submit
from quarantine.models import Content, Message, MessageKind, Recipient, State
from quarantine.platform.models import DeliveryJob, Heartbeat, Lane
from tests.kept_mail import RAW, keep, send_off
from tests.quarantine.couriers import BOB, CAROL, get_body, get_row, list_kinds, route, wait_for_state
from tests.running_courier import running_courier, wait_until
from tests.smtp_sink import CLOSE, Reply, Sink


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


def test_a_delivery_writes_to_no_index(sink, acme_committed, tmp_path):
    """The row's new version stands beside the old one (PostgreSQL's heap-only update)."""
    updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
    updates += " WHERE schemaname = 'sp_acme' AND relname = 'quarantine_recipient'"

    def count_updates() -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_stat_force_next_flush()")  # what our own connection did before is counted late
            cursor.execute(updates)
            return list(cursor.fetchone())

    before = count_updates()
    send_off(BOB)
    with running_courier(tmp_path):
        wait_for_state(State.DELIVERED)
    wait_until(lambda: count_updates()[0] > before[0])
    assert count_updates() == [count + 1 for count in before]
