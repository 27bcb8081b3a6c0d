"""Mail in over a real socket: what is answered, and what is in the rows afterwards."""

from __future__ import annotations

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from quarantine.models import Message, Recipient
from quarantine.platform.models import DeliveryJob, UnroutedRefusal
from quarantine.queries import read_raw
from tests.quarantine.gateways import run_gateway

pytestmark = pytest.mark.usefixtures("committed")

CLEAN = b"From: Ann <ann@sender.test>\r\nTo: bob@alpha.test\r\nSubject: lunch\r\nMessage-ID: <1@sender.test>\r\n\r\nNoon?\r\n"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
SPAM = b"From: x@sender.test\r\nSubject: test\r\n\r\n" + GTUBE + b"\r\n"


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway() as running:
        yield running


def get_states(schema: str = "sp_acme") -> list[tuple[str, str]]:
    with schema_context(schema):
        return list(Recipient.objects.order_by("address").values_list("address", "state"))


def test_clean_mail_is_kept_and_queued_for_delivery(gateway):
    client = gateway.open()
    reply = client.mail("ann@sender.test", data=CLEAN)
    assert reply.startswith("250 2.0.0 Ok: kept as ")
    with schema_context("sp_acme"):
        message = Message.objects.get(trace_id=reply.rpartition(" ")[2])
        recipient = message.recipients.select_related("mailbox").get()
        events = list(message.events.values_list("kind", flat=True))
        raw = read_raw(message)
    assert (message.sender, message.subject, message.size) == ("ann@sender.test", "lunch", len(CLEAN))
    assert (str(message.client_ip), message.helo, message.ptr_status) == ("127.0.0.1", "client.test", "skipped")
    assert (recipient.address, recipient.state, recipient.mailbox.address) == (
        "bob@alpha.test",
        "delivering",
        "bob@alpha.test",
    )
    assert recipient.received_at == message.received_at
    assert message.policy_release == recipient.policy_release == 1
    assert raw == CLEAN
    assert events == ["accepted"]
    job = DeliveryJob.objects.get()
    assert (job.schema, job.recipient_id, job.domain_id, job.lane) == (
        "sp_acme",
        recipient.pk,
        recipient.domain_id,
        "mail",
    )
