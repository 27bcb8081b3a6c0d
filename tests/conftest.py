"""Fixtures that every test may use. Servers come from tests.servers, people from tests.cast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection
from django.test.utils import setup_databases, teardown_databases
from django_tenants.utils import schema_context

import portal.public_urls
import portal.urls  # noqa: F401 - read now, without the demo's pages, whatever a test sets later
from tests import cast
from tests.quarantine import gateways
from tests.running import Stack
from tests.smtp_sink import Sink
from tests.world import World

CORPORA = Path(__file__).resolve().parent.parent.parent / "shared" / "corpora"


@pytest.fixture(scope="session")
def django_db_setup(
    django_test_environment: None, django_db_blocker, django_db_modify_db_settings: None
) -> Iterator[None]:
    """The test database: shared tables, two providers' schemas, the cast."""
    with django_db_blocker.unblock():
        config = setup_databases(verbosity=0, interactive=False, parallel=0, aliases=["default"])
        cast.make_schemas()
        cast.make_people()
    yield
    with django_db_blocker.unblock():
        teardown_databases(config, verbosity=0)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(django_db_blocker) -> None:
    """A gateway of the module before has written its last counts after that module's last wipe."""
    if gateways.STOPPED:
        with django_db_blocker.unblock():
            wipe()


@pytest.fixture
def committed(django_db_setup: None, django_db_blocker) -> Iterator[None]:
    """A database whose writes are committed, so that other connections and processes see them; wiped after."""
    with django_db_blocker.unblock():
        yield
        for gateway in gateways.RUNNING:
            gateway.settle()
        wipe()


def wipe() -> None:
    connection.set_schema_to_public()
    cast.wipe()
    cast.make_people()
    connection.close()
    gateways.STOPPED.clear()


@pytest.fixture
def acme(db: None) -> Iterator[None]:
    """Inside the schema of Acme, in a transaction that is rolled back."""
    with schema_context("sp_acme"):
        yield


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of labelled mail; a visible skip where it is not beside the project."""
    if not CORPORA.is_dir():
        pytest.skip(f"the labelled mail is not at {CORPORA}")
    return CORPORA


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A whole Lazaret without demo data, started by ./run; ready when the test begins."""
    running = Stack()
    try:
        running.start("--empty")
        running.wait_ready()
        yield running
    finally:
        running.remove()


@pytest.fixture(scope="session")
def world(stack: Stack) -> Iterator[World]:
    """Providers Acme, Globex and Kestrel in the running Lazaret, with one mail server behind all their domains."""
    with Sink() as sink:
        made = World(stack, sink)
        people = [f"{name}@acme.test" for name in ("bob", "carol", "dan", "eve", "kit")]
        made.provide("acme", "acme.test", admin="alice@office.example", users=people)
        made.provide("globex", "globex.test", admin="mallory@office.example", users=["gus@globex.test"])
        made.provide("kestrel", "kestrel.test", users=["kim@kestrel.test", "lea@kestrel.test"])
        yield made
