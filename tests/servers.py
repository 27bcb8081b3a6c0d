"""A pytest plugin: the suite's own PostgreSQL and Valkey, started before Django reads its settings."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from portal.stack.postgres import EmbeddedPostgres
from portal.stack.valkey import EmbeddedValkey


def start() -> None:
    home = Path(tempfile.mkdtemp(prefix="lazaret-test-"))
    home.chmod(0o755)
    postgres = EmbeddedPostgres(home / "postgres", settings={"fsync": "off", "full_page_writes": "off"})
    valkey = EmbeddedValkey(home / "valkey")

    def stop() -> None:
        postgres.stop()
        valkey.stop()
        shutil.rmtree(home, ignore_errors=True)

    atexit.register(stop)
    postgres.start()
    valkey.start()
    os.environ.update(DATABASE_URL=postgres.url, BROKER_URL=valkey.url, LAZARET_HOME=str(home / "home"))


if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the servers of the process that started them
    start()
