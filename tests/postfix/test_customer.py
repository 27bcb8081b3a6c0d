"""Postfix is the customer's server: the courier delivers to it, and the trace says what it answered."""

import pwd
from pathlib import Path

import pytest
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from quarantine import release
from quarantine.delivery import outcome, server
from quarantine.models import Event, Message, Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import RAW, keep, send_off
from tests.postfix.instance import Postfix, run_postfix
from tests.running_courier import running_courier, wait_until

CERTIFICATE = Path(__file__).parent.parent / "smtp_sink.pem"
BOB, CAROL = "bob@alpha.test", "carol@alpha.test"
NASTY = b"From: x@far.test\r\nSubject: odd\r\n\r\n.\r\n..\r\n.x\r\n\xe9\xff\r\n" + b"l" * 70_000 + b"\r\n \r\n\r\n"


@pytest.fixture(autouse=True)
def acme_committed(committed, monkeypatch):
    """Inside Acme's schema; a courier tries again after parts of a second."""
    monkeypatch.setattr(outcome, "get_pause", lambda attempts: 0.3)
    monkeypatch.setattr(server, "FIRST_PROBE_SECONDS", 0.3)
    monkeypatch.setattr(server, "LONGEST_PROBE_SECONDS", 0.3)
    with schema_context("sp_acme"):
        yield


def run_customer(**settings: str):
    """A Postfix that has the mailboxes of Bob and Carol."""
    nobody = pwd.getpwnam("nobody")
    return run_postfix(
        **{
            "virtual_mailbox_domains": "alpha.test",
            "virtual_mailbox_base": "{directory}/mail",
            "virtual_mailbox_maps": "inline:{{bob@alpha.test=bob@alpha.test/, carol@alpha.test=carol@alpha.test/}}",
            "virtual_uid_maps": f"static:{nobody.pw_uid}",
            "virtual_gid_maps": f"static:{nobody.pw_gid}",
            "smtpd_recipient_restrictions": "check_recipient_access texthash:{directory}/access, permit",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "smtpd_tls_chain_files": str(CERTIFICATE),
            "smtpd_tls_security_level": "may",
            "smtpd_tls_received_header": "yes",
        }
        | settings
    )


def set_access(postfix: Postfix, text: str) -> None:
    (postfix.directory / "access").write_text(text)


def route(port: int) -> None:
    MailDomain.objects.filter(name="alpha.test").update(server_host="127.0.0.1", server_port=port)


def get_row(address: str = BOB) -> Recipient:
    return Recipient.objects.get(address=address)


def wait_for_state(state: str, address: str = BOB) -> Recipient:
    wait_until(lambda: get_row(address).state == state, 30)
    return get_row(address)


def list_told(address: str = BOB) -> list[tuple[str, str]]:
    """What the trace says of the deliveries to an address: what became of it, and the reply."""
    told = Event.objects.filter(recipient__address=address).order_by("id").values_list("kind", "text")
    return [(kind, text.partition(" [")[0]) for kind, text in told]


def get_body(mail: bytes, message: Message) -> bytes:
    """What is below our own header lines in a file of the mailbox, with CRLF line ends."""
    assert b"\r" not in mail
    _, ours, rest = mail.partition(b"\nX-Lazaret-Trace: %b" % message.trace_id.encode())
    assert ours, mail[:2000]
    return rest.partition(b"\n")[2].replace(b"\n", b"\r\n")


@pytest.mark.parametrize("raw", [RAW, NASTY], ids=["plain", "odd octets, dots and a long line"])
def test_the_octets_reach_the_mailbox_over_tls(raw, tmp_path):
    with run_customer() as postfix:
        set_access(postfix, "")
        route(postfix.port)
        message = send_off(BOB, raw=raw)
        with running_courier(tmp_path):
            row = wait_for_state(State.DELIVERED)
            wait_until(lambda: postfix.read_mail(BOB))
        [mail] = postfix.read_mail(BOB)
        queue_id = row.reply.rpartition(" ")[2]
        assert row.reply.startswith("250 2.0.0 Ok: queued as ")
        assert postfix.find_lines(f" {queue_id}: to=<{BOB}>.*status=sent")  # our trace leads into Postfix's log
    assert get_body(mail, message) == raw
    assert b"(using TLSv1." in mail.partition(b"\nFrom:")[0]
    assert list_told() == [("delivered", row.reply)]
    assert f"[127.0.0.1:{postfix.port}, TLSv1." in Event.objects.get().text


def test_a_released_message_reaches_the_mailbox(tmp_path):
    with run_customer() as postfix:
        set_access(postfix, "")
        route(postfix.port)
        message = keep(BOB, raw=NASTY)
        with running_courier(tmp_path):
            release.release(Recipient.objects.all(), by=BOB)
            row = wait_for_state(State.RELEASED)
            wait_until(lambda: postfix.read_mail(BOB))
        assert get_body(postfix.read_mail(BOB)[0], message) == NASTY
    assert list_told()[-1] == ("released", row.reply)


def test_mail_that_is_put_off_is_told_and_tried_again(tmp_path):
    """As a greylist does it: 4xx first. One recipient of two; the other is not held up."""
    with run_customer() as postfix:
        set_access(postfix, f"{CAROL} 450 4.2.0 Greylisted, come back\n")
        route(postfix.port)
        send_off(BOB, CAROL)
        with running_courier(tmp_path):
            told = wait_for_state(State.DEFERRED, CAROL).reply
            wait_for_state(State.DELIVERED)
            set_access(postfix, "")
            postfix.stop()  # a reload leaves the connection that is open with the old table
            postfix.start()
            wait_for_state(State.DELIVERED, CAROL)
            wait_until(lambda: not DeliveryJob.objects.exists())
        wait_until(lambda: postfix.read_mail(CAROL))
        assert (len(postfix.read_mail(BOB)), len(postfix.read_mail(CAROL))) == (1, 1)  # O16
    assert told == f"450 4.2.0 <{CAROL}>: Recipient address rejected: Greylisted, come back"
    trace = list_told(CAROL)
    assert trace[0] == ("deferred", told)
    assert trace[-1][0] == "delivered"


def test_an_unknown_user_is_held_with_the_servers_words(tmp_path):
    with run_customer() as postfix:
        set_access(postfix, "")
        route(postfix.port)
        send_off("dora@alpha.test")
        with running_courier(tmp_path):
            row = wait_for_state(State.HELD, "dora@alpha.test")
    assert row.reply == (
        "550 5.1.1 <dora@alpha.test>: Recipient address rejected: User unknown in virtual mailbox table"
    )
    assert list_told("dora@alpha.test") == [("server_refused", row.reply)]


def test_a_message_too_large_for_postfix_is_not_sent_there(tmp_path):
    with run_customer(message_size_limit="20000") as postfix:
        set_access(postfix, "")
        route(postfix.port)
        send_off(BOB, raw=RAW + b"x" * 30_000)
        with running_courier(tmp_path):
            row = wait_for_state(State.HELD)
        assert not postfix.find_lines("postfix/cleanup")
    assert row.reply.startswith("552 5.3.4 ")  # O10


def test_mail_waits_for_a_postfix_that_is_stopped(tmp_path):
    with run_customer() as postfix:
        set_access(postfix, "")
        route(postfix.port)
        postfix.stop()
        message = send_off(BOB)
        with running_courier(tmp_path):
            told = wait_for_state(State.DEFERRED).reply
            postfix.start()
            wait_for_state(State.DELIVERED)
            wait_until(lambda: postfix.read_mail(BOB))
        [mail] = postfix.read_mail(BOB)
    assert told.startswith("451 4.4.1 ")
    assert get_body(mail, message) == RAW
