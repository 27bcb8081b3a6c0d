"""Postfix is the customer's server that is asked for mailboxes: its own words, as people set it up."""

import pytest

from tests.postfix.instance import Postfix, run_postfix
from tests.quarantine.gateways import run_gateway
from tests.quarantine.policies import NOT_VERIFIED, RECIPIENT_OK, UNKNOWN_MAILBOX, ask, choose, list_mailboxes
from tests.smtp_sink import CERTIFICATE

pytestmark = pytest.mark.usefixtures("committed")

CUSTOMER = {
    "virtual_mailbox_domains": "alpha.test",
    "virtual_mailbox_maps": "inline:{{new@alpha.test=new/, postmaster@alpha.test=postmaster/}}",
    "smtpd_relay_restrictions": "reject_unauth_destination",
    "smtpd_tls_chain_files": str(CERTIFICATE),
    "smtpd_tls_security_level": "may",
    "smtpd_tls_loglevel": "1",
}


@pytest.fixture(scope="module")
def gateway(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), run_gateway() as running:
        yield running


def ask_behind(gateway, postfix: Postfix, *recipients: str) -> list[str]:
    choose("callout", gateway, server_port=postfix.port)
    return ask(gateway, *recipients)


def test_its_mailboxes_are_taken_and_others_refused(gateway):
    with run_postfix(**CUSTOMER) as postfix:
        replies = ask_behind(gateway, postfix, "new@alpha.test", "nobody@alpha.test")
        assert replies == [RECIPIENT_OK, UNKNOWN_MAILBOX]
        assert not postfix.list_queue()
        assert postfix.find_lines("TLS connection established")
    assert list_mailboxes() == []


def test_a_relay_that_asks_others_tells_no_mailboxes_apart(gateway):
    """It takes every address of the domain at RCPT: so do we, and ask no more."""
    relay = {"relay_domains": "alpha.test", "relay_transport": "discard:"}
    with run_postfix(**relay, smtpd_relay_restrictions="permit_auth_destination, reject") as postfix:
        assert ask_behind(gateway, postfix, "x1@alpha.test", "x2@alpha.test") == [RECIPIENT_OK] * 2
        assert len(postfix.find_lines(": connect from")) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"smtpd_client_restrictions": "static:{{REJECT}}"},  # 554 5.7.1 Client host rejected, said at RCPT
        {"smtpd_sender_restrictions": "static:{{550 5.7.1 null sender refused}}"},
        {"smtpd_tls_security_level": "encrypt", "smtpd_tls_chain_files": ""},
        {"smtpd_recipient_restrictions": "static:{{DEFER}}"},
        {"virtual_mailbox_domains": "other.test"},  # 554 5.7.1 Relay access denied: the route is wrong
        {"virtual_mailbox_maps": "tcp:127.0.0.1:1"},  # 451 4.3.0: its own directory is away
    ],
)
def test_what_is_not_about_the_mailbox_decides_nothing(gateway, settings):
    with run_postfix(**CUSTOMER | settings) as postfix:
        replies = ask_behind(gateway, postfix, "new@alpha.test")
        assert replies == [NOT_VERIFIED], (gateway.services.recipients.counts, postfix.log)
