"""What a bounce quotes: the trace id at the end of a refusal finds it, with the very words that were said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import call_command

from portal.tenants.models import MailDomain
from quarantine.gateway import load, replies
from quarantine.gateway.limits import Limits
from quarantine.platform.models import Unrouted
from quarantine.store import StoreUnavailableError
from quarantine.trace_id import make_trace_id
from tests.quarantine.gateways import run_gateway, run_name_server
from tests.quarantine.test_gateway_bdat import send_chunk
from tests.quarantine.test_gateway_mail import CLEAN, SPAM, WITHOUT_PTR
from tests.quarantine.test_gateway_session import HELO_FIRST, MAIL, MAIL_FIRST, RCPT, TEMPORARY, TOO_BIG

pytestmark = pytest.mark.usefixtures("committed")

LIMIT = 10_000
UNKNOWN, ELSEWHERE = "RCPT TO:<no@alpha.test>", "RCPT TO:<you@elsewhere.test>"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_name_server(), run_gateway(limits=Limits(message_octets=LIMIT)) as running:
        yield running


def find(gateway, capsys, trace_id: str) -> list[dict[str, Any]]:
    """What is found by the id."""
    gateway.settle()
    call_command("trace", trace_id, "--json")
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("commands", "cause"),
    [
        (["EHLO x", MAIL, UNKNOWN], "no_mailbox"),
        (["EHLO x", MAIL, ELSEWHERE], "relay_denied"),
        ([f"XCLIENT ADDR={WITHOUT_PTR}", "EHLO x", MAIL, RCPT], "reverse_dns"),
        (["EHLO x", MAIL, "RCPT TO:bob@alpha.test"], "syntax"),
        (["EHLO x", MAIL, UNKNOWN, "DATA"], "no_mailbox"),
        (["EHLO x", MAIL, UNKNOWN, "BDAT 0 LAST"], "no_mailbox"),
        (["EHLO x", MAIL, "DATA"], "disconnected"),
        (["EHLO x", f"{MAIL} SIZE={LIMIT + 1}"], "too_big"),
        (["EHLO x", "MAIL FROM:<a@b@c>"], "syntax"),
    ],
)
def test_a_refusal_is_found_by_what_the_bounce_says(gateway, capsys, commands, cause):
    client = gateway.connect()
    *_, reply = client.talk(*commands)
    told = f"{reply} (trace {client.trace_id})"
    client.close()
    [found] = [one for one in find(gateway, capsys, client.trace_id) if one["cause"] == cause]
    assert found["trace_id"] == client.trace_id
    assert told in [said for _, said in found["replies"]] + [found["reply"]]


@pytest.mark.parametrize(
    ("commands", "reply"), [([RCPT], replies.OVERLOADED), ([RCPT, "DATA"], replies.TEMPORARY)], ids=["RCPT", "DATA"]
)
def test_mail_that_is_put_off_is_found_before_it_comes_again(gateway, capsys, monkeypatch, commands, reply):
    monkeypatch.setattr(type(gateway.services.load), "refuse_mail", lambda *_: load.OVERLOADED)
    client = gateway.open()
    assert client.talk(MAIL, *commands)[-1] == str(reply)
    client.close()
    [found] = find(gateway, capsys, client.trace_id)
    assert (found["outcome"], found["cause"]) == ("deferred", "overload")
    assert found["replies"][-1] == [commands[-1], f"{reply} (trace {client.trace_id})"]


def set_spam_action(gateway, action: str) -> None:
    MailDomain.objects.filter(name="beta.test").update(sure_spam_action=action)
    gateway.wait_for_change("bea@beta.test", lambda found: found.domain.sure_spam_action == action)


@pytest.mark.parametrize(
    ("data", "reply", "cause"),
    [
        (SPAM, replies.REFUSED_BY_POLICY, "policy"),
        (b"x" * LIMIT + CLEAN, replies.TOO_BIG, "too_big"),
        (b"Received: x\r\n" * 101 + CLEAN, replies.LOOPING, "loop"),
    ],
)
def test_a_refusal_at_the_end_of_data_is_found(gateway, capsys, data, reply, cause):
    set_spam_action(gateway, "refuse")
    client = gateway.open()
    assert client.mail("ann@sender.test", "bea@beta.test", data=data) == str(reply)
    client.close()
    [found] = find(gateway, capsys, client.trace_id)
    told = f"{reply} (trace {client.trace_id})"
    assert (found["outcome"], found["cause"], found["reply"]) == ("refused", cause, told)
    assert found["replies"][-1] == ["end of data", told]


def test_a_message_put_off_at_its_end_is_found(gateway, capsys, monkeypatch):
    async def fail(*_):
        raise StoreUnavailableError

    monkeypatch.setattr(gateway.services.intake, "receive", fail)
    client = gateway.open()
    assert client.mail(data=CLEAN) == TEMPORARY
    client.close()
    [found] = find(gateway, capsys, client.trace_id)
    assert (found["outcome"], found["reply"]) == ("deferred", f"{TEMPORARY} (trace {client.trace_id})")


def test_chunks_of_a_refused_message_name_it_once_and_no_other(gateway, capsys):
    client = gateway.open()
    client.talk(MAIL, RCPT)
    refused = [(send_chunk(client, b"x" * (LIMIT + 1)), client.trace_id) for _ in range(2)]
    assert refused == [(TOO_BIG, refused[0][1])] * 2
    assert client.ask(f"{MAIL} SIZE={LIMIT + 1}") == TOO_BIG
    other = client.trace_id
    assert (send_chunk(client, CLEAN, last=True), client.trace_id) == (MAIL_FIRST, other)
    client.close()
    for one in (refused[0][1], other):
        assert [found["cause"] for found in find(gateway, capsys, one)] == ["too_big"]


@pytest.mark.parametrize(
    ("commands", "reply"),
    [
        ([MAIL], HELO_FIRST),
        (["EHLO x", RCPT], MAIL_FIRST),
        (["EHLO x", MAIL, "RSET", "DATA"], MAIL_FIRST),
        (["EHLO x", MAIL, "HELP"], str(replies.NOT_IMPLEMENTED)),
        (["EHLO x", MAIL, "GET /"], str(replies.NOT_SMTP)),
    ],
)
def test_what_belongs_to_no_mail_names_none(gateway, commands, reply):
    client = gateway.connect()
    *_, said = client.talk(*commands)
    assert (said, client.trace_id) == (reply, "")
    client.close()


def test_alike_refusals_share_a_row_that_the_first_id_finds(gateway, capsys):
    client, ids = gateway.open(), []
    for _ in range(3):
        assert client.ask(f"{MAIL} SIZE={LIMIT + 1}") == TOO_BIG
        ids.append(client.trace_id)
    client.close()
    [found] = find(gateway, capsys, ids[0])
    assert (found["times"], found["reply"]) == (3, f"{TOO_BIG} (trace {ids[0]})")
    assert len(set(ids)) == 3
    assert Unrouted.objects.count() == 1


def test_for_the_id_the_words_of_the_policy_are_cut():
    trace_id = make_trace_id()
    reply = replies.sign(replies.refuse(553, "5.3.0", "no " * 300), trace_id)
    assert len(reply.encode()) <= 512
    assert str(reply).startswith("553 5.3.0 no no ")
    assert str(reply).endswith(f" (trace {trace_id})")
