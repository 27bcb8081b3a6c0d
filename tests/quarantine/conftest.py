"""A courier's surroundings."""

import pytest
from django_tenants.utils import schema_context

from quarantine.delivery import outcome, server
from tests.quarantine.couriers import route
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
    monkeypatch.setattr(server, "FIRST_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(server, "LONGEST_PROBE_SECONDS", 0.2)


@pytest.fixture
def acme_committed(committed):
    with schema_context("sp_acme"):
        yield
