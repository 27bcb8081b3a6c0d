"""A name server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dns_server import DnsServer


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running
