"""Strange content through a running gateway, and on to the customer's server: taken, noted, and unchanged."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from pathlib import Path

import pytest
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from quarantine.gateway.limits import Limits
from quarantine.models import Message, Recipient
from quarantine.queries import read_raw
from tests.filtering.test_ambiguity import AMBIGUOUS
from tests.filtering.test_content import HOSTILE, MIXED, part
from tests.quarantine.couriers import get_body
from tests.quarantine.gateways import RunningGateway, run_gateway
from tests.quarantine.test_gateway_mail import GTUBE, get_trace_id, read_back
from tests.reports.test_digests import send as send_report
from tests.running_courier import running_courier
from tests.smtp_sink import Sink

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway(limits=Limits(message_octets=30_000_000)) as running:
        yield running


def send(gateway: RunningGateway, raw: bytes) -> str:
    client = gateway.open()
    try:
        return client.mail(data=raw)
    finally:
        client.close()


def get_problems(reply: str) -> list[str]:
    with schema_context("sp_acme"):
        return Message.objects.get(trace_id=get_trace_id(reply)).evidence["content"]["problems"]


# D25 D26
@pytest.mark.parametrize("name", ["nested", "nested in one", "headers", "folded", "empty parts", "commas", "quotes"])
def test_hostile_structure_is_taken(gateway, name):
    raw = HOSTILE[name]
    raw = raw if raw.endswith(b"\r\n") else raw + b"\r\n"

    reply = send(gateway, raw)

    assert read_back(reply) == raw
    assert send(gateway, b"Subject: next\r\n\r\nx\r\n").startswith("250 2.0.0 ")


# D23 D24
@pytest.mark.parametrize(
    "raw",
    [
        b"Subject: \xff\xfe\xe4 =?utf-8?q?=ff?=\r\nFrom: \xe4 <\xe4@b.test>\r\n\r\nx\r\n",
        b"Subject: =?x-none?q?a?=\r\nContent-Type: text/plain; charset=x-none\r\n\r\n\x80\x81\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\nQUJD!!=D=\r\n",
        MIXED + b"--b\r\nContent-Type: text/plain\r\n",
    ],
)
def test_broken_encodings_are_taken_and_kept_as_they_came(gateway, raw):
    assert read_back(send(gateway, raw)) == raw


# N14
@pytest.mark.parametrize("name", [name for name, (_, problem) in AMBIGUOUS.items() if problem])
def test_ambiguity_is_noted_in_the_evidence(gateway, name):
    raw, problem = AMBIGUOUS[name]
    raw = re.sub(rb"\r?\n", b"\r\n", raw)

    reply = send(gateway, raw)

    assert problem in get_problems(reply)
    with schema_context("sp_acme"):
        recipient = Recipient.objects.get()
        assert (recipient.state, recipient.category) == ("quarantined", "virus")
        assert problem in next(found["text"] for found in recipient.findings if found["check"] == "structure")


# N15
def test_archives_that_explode_are_taken(gateway):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../slip", bytes(50_000_000))
    data = base64.encodebytes(packed.getvalue()).replace(b"\n", b"\r\n")
    raw = MIXED + part(data, encoding="base64", kind="application/zip", name="42.zip") + b"--b--\r\n"

    assert read_back(send(gateway, raw)) == raw


# N16
def test_subject_of_a_hundred_thousand_letters_is_stored_and_reported_in_short_lines(gateway):
    text = "\u202efdp.\u200b" + "ä" * 100_000
    raw = b"Subject: " + text.encode() + b"\r\n\r\n" + GTUBE + b"\r\n"

    reply = send(gateway, raw)

    assert read_back(reply) == raw
    with schema_context("sp_acme"):
        assert Message.objects.get(trace_id=get_trace_id(reply)).subject.startswith("fdp.\u200bää")
        lines = read_raw(send_report().message).split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert "\u202e".encode() not in b"".join(lines)


# N17
@pytest.mark.parametrize(
    "raw",
    [b"Subject: no more than this\r\n\r\nhello\r\n", b"\r\nno header at all\r\n", b"X-Only: this\r\n\r\n.\r\n..\r\n"],
)
def test_absent_fields_are_not_added(gateway, raw, tmp_path: Path):
    with Sink() as sink:
        MailDomain.objects.update(server_host="127.0.0.1", server_port=sink.port)
        with running_courier(tmp_path):
            assert "no Date field" in get_problems(send(gateway, raw))
            (arrived,) = sink.wait(1)
            assert get_body(arrived.raw) == raw
