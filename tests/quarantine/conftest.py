"""A courier's surroundings, and a gateway's that asks a customer's server."""

from collections.abc import Iterator

import pytest
from django_tenants.utils import schema_context

from quarantine.delivery import callout, outcome
from quarantine.delivery import server as servers
from quarantine.delivery.callout import Callout
from quarantine.gateway import recipients
from quarantine.gateway.recipients import RecipientFinder
from tests.quarantine.couriers import route
from tests.quarantine.gateways import RunningGateway
from tests.quarantine.policies import answer_rcpt, choose
from tests.smtp_sink import Sink


@pytest.fixture
def sink(committed):
    """The server of every domain of the cast."""
    with Sink() as made:
        route(made)
        yield made


@pytest.fixture
def quick(monkeypatch):
    """Pauses of parts of a second."""
    monkeypatch.setattr(outcome, "FIRST_PAUSE_SECONDS", 1)
    monkeypatch.setattr(outcome, "get_pause", lambda attempts: 0.2)
    monkeypatch.setattr(servers, "FIRST_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(servers, "LONGEST_PROBE_SECONDS", 0.2)


@pytest.fixture
def acme_committed(committed):
    with schema_context("sp_acme"):
        yield


@pytest.fixture
def server() -> Iterator[Sink]:
    """A customer's server that knows a few mailboxes, and takes no mail."""
    with Sink() as sink:
        sink.on("RCPT", answer_rcpt)
        yield sink
    assert not any(line.startswith("DATA") for line in sink.commands)


@pytest.fixture
def asking(gateway, server, monkeypatch) -> Iterator[RunningGateway]:
    """A gateway that asks the server, knows nothing yet, and is patient for a moment only."""
    callout_of_now = Callout(hostname="lazaret.localhost", seconds=0.5)
    finder = RecipientFinder(gateway.gateway.directory, callout_of_now)
    monkeypatch.setattr(gateway.services, "recipients", finder)
    monkeypatch.setattr(callout, "FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(callout, "LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(recipients, "UNCLEAR_SECONDS", 0.0)
    choose("callout", gateway, server_port=server.port)
    yield gateway
    gateway.run(callout_of_now.close())
