"""A customer's Postfix that sends our mail back to us: it ends after few rounds, and both sides know why."""

import pytest
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from quarantine.causes import Cause
from quarantine.models import Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.postfix.instance import run_postfix
from tests.postfix.test_sender import hand_over, make_letter, relay_to
from tests.quarantine.gateways import run_gateway
from tests.running_courier import HOSTNAME, running_courier, wait_until

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture
def gateway(settings):
    settings.SMTP_HOSTNAME = HOSTNAME
    with run_gateway() as running:
        yield running


def list_rows() -> list[Recipient]:
    with schema_context("sp_acme"):
        return list(Recipient.objects.order_by("id"))


def test_a_customers_server_that_sends_mail_back_is_told_in_the_third_round(gateway, tmp_path):
    with run_postfix(**relay_to(gateway.port, hopcount_limit="1000", notify_classes="")) as postfix:
        MailDomain.objects.filter(name="alpha.test").update(server_host="127.0.0.1", server_port=postfix.port)
        client = gateway.open()
        assert client.mail(data=make_letter("plain")).startswith("250 ")
        with running_courier(tmp_path):
            wait_until(lambda: bool(postfix.find_lines("status=bounced")), 60)
            wait_until(lambda: not DeliveryJob.objects.exists())
        [bounced] = postfix.find_lines("status=bounced")
        postfix.wait_empty()
        assert len(postfix.find_lines("status=sent .*250 ")) >= 1
    assert "said: 554 5.4.6 " in bounced
    assert "(in reply to end of DATA command)" in bounced
    rows = list_rows()
    assert [row.state for row in rows] == [State.DELIVERED, State.DELIVERED, State.REFUSED]
    assert rows[2].cause == Cause.LOOP
    assert rows[2].reply.startswith("554 5.4.6 ")


@pytest.mark.parametrize(("hops", "state"), [(30, State.DELIVERING), (99, State.DELIVERING), (101, State.REFUSED)])
def test_hops_are_counted(gateway, hops, state):
    """D27, D28. Postfix's own hop is one more."""
    raw = b"Received: from a.test by b.test; Mon, 23 Nov 2026 10:00:00 +0000\r\n" * (hops - 1) + make_letter("plain")
    with run_postfix(**relay_to(gateway.port, hopcount_limit="1000")) as postfix:
        hand_over(postfix, raw)
        postfix.wait_empty()
        assert bool(postfix.find_lines("said: 554 5.4.6 ")) == (state == State.REFUSED)
    assert [row.state for row in list_rows()] == [state]
