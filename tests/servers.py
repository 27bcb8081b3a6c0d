"""A pytest plugin: the suite's own PostgreSQL and Valkey, started before Django reads its settings.

They end with pytest, however it ends: the kernel stops them with their parent, and the next run removes what a killed
one left on disk.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from portal.stack.postgres import EmbeddedPostgres
from portal.stack.valkey import EmbeddedValkey

PREFIX = "lazaret-test-"


def start() -> None:
    remove_left_over()
    home = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
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


def remove_left_over() -> None:
    """Directories are named for the pytest that made them."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = directory.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(directory, ignore_errors=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def take_own_valkey(worker: str) -> None:
    """A worker inherits the servers of the process that started it; queues and cache are its own."""
    number = int(worker.removeprefix("gw")) % 15 + 1
    os.environ["BROKER_URL"] = f"{os.environ['BROKER_URL'].rpartition('/')[0]}/{number}"


if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    take_own_valkey(worker)
else:
    start()
