"""A running gateway, and tables that somebody else holds locked: who else is concerned, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django_tenants.utils import schema_context

from portal.tenants.database import get_conninfo
from quarantine.gateway.limits import Limits
from quarantine.models import Recipient, State
from tests.quarantine.gateways import RunningGateway, run_gateway
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import GO_AHEAD, MAIL, RCPT, RECIPIENT_OK, SENDER_OK, TEMPORARY
from tests.running_courier import wait_until

pytestmark = pytest.mark.usefixtures("committed")
GUS = "RCPT TO:<gus@gamma.test>"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningGateway]:
    monkeypatch.setattr("quarantine.gateway.server.LOCK_SECONDS", 0.3)
    with run_gateway() as running:
        yield running


@contextmanager
def locked(table: str) -> Iterator[None]:
    with psycopg.connect(get_conninfo()) as blocker:
        blocker.execute(f"LOCK {table} IN ACCESS EXCLUSIVE MODE")
        yield


def send(gateway: RunningGateway, *recipients: str, data: bytes = CLEAN) -> str:
    client = gateway.open()
    try:
        return client.mail("ann@sender.test", *recipients, data=data)
    finally:
        client.close()


def list_states(schema: str) -> list[tuple[str, str]]:
    with schema_context(schema):
        return list(Recipient.objects.values_list("address", "state"))


def test_mail_for_two_providers_is_taken_for_the_one_whose_tables_are_free(gateway):
    with locked("sp_globex.quarantine_message"):
        assert send(gateway, "gus@gamma.test") == TEMPORARY
        client = gateway.open()
        assert client.talk(MAIL, RCPT, GUS, "DATA") == [SENDER_OK, RECIPIENT_OK, TEMPORARY, GO_AHEAD]
        assert client.send_data(CLEAN).startswith("250 2.0.0 ")
        client.close()
        assert list_states("sp_acme") == [("bob@alpha.test", State.DELIVERING)]
    wait_until(lambda: not gateway.gateway.store.notes)
    assert list_states("sp_globex") == [("gus@gamma.test", State.UNFINISHED)] * 2  # told to come again, twice


def test_mail_that_is_refused_for_one_provider_is_so_while_the_others_tables_are_locked(monkeypatch):
    monkeypatch.setattr("quarantine.gateway.server.LOCK_SECONDS", 0.3)
    with run_gateway(limits=Limits(message_octets=2000)) as gateway, locked("sp_globex.quarantine_message"):
        assert send(gateway, "gus@gamma.test") == TEMPORARY
        client = gateway.open()
        assert client.talk(MAIL, RCPT, GUS, "DATA") == [SENDER_OK, RECIPIENT_OK, TEMPORARY, GO_AHEAD]
        assert client.send_data(CLEAN + b"x" * 70 * 50 + b"\r\n").startswith("552 5.3.4 ")
        client.close()
        assert list_states("sp_acme") == [("bob@alpha.test", State.REFUSED)]


def test_a_locked_table_of_mailboxes_concerns_its_provider_only(gateway, caplog):
    assert send(gateway, "gus@gamma.test").startswith("250 2.0.0 ")  # from now on the mailbox is known
    with locked("sp_globex.people_mailbox"):
        assert send(gateway, "gus@gamma.test", data=CLEAN + b"Again?\r\n") == TEMPORARY
        client = gateway.open()
        assert client.talk(MAIL, GUS, RCPT) == [SENDER_OK, TEMPORARY, RECIPIENT_OK]
        client.close()
        assert send(gateway, "bob@alpha.test").startswith("250 2.0.0 ")
    assert "tables_locked schemas=sp_globex" in caplog.messages
    wait_until(lambda: not gateway.gateway.store.is_locked("sp_globex"))
    assert send(gateway, "gus@gamma.test", data=CLEAN + b"Again?\r\n").startswith("250 2.0.0 ")


@pytest.mark.parametrize("mode", ["SHARE", "SHARE ROW EXCLUSIVE"])
def test_mailboxes_that_are_only_kept_from_changes_stop_no_mail(gateway, mode):
    """An index is made, for instance."""
    with psycopg.connect(get_conninfo()) as blocker:
        blocker.execute(f"LOCK sp_globex.people_mailbox IN {mode} MODE")
        assert send(gateway, "gus@gamma.test").startswith("250 2.0.0 ")


def test_a_locked_table_of_all_providers_is_called_by_its_name(gateway, caplog):
    with locked("public.platform_receipt"):
        assert send(gateway, "bob@alpha.test", "gus@gamma.test") == TEMPORARY
    assert "tables_locked tables=public.platform_receipt" in caplog.messages
    wait_until(lambda: not gateway.gateway.store.is_locked("sp_acme"))
    assert send(gateway, "bob@alpha.test", "gus@gamma.test").startswith("250 2.0.0 ")
