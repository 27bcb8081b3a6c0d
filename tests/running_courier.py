"""A courier on a thread of the test's own process, and one as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from django.db import connection

from portal.settings.environment import PROJECT
from quarantine.delivery.channel import Manner
from quarantine.delivery.courier import Courier
from quarantine.delivery.smtp import PATIENT, Patience

HOSTNAME = "lazaret.test"


@contextmanager
def running_courier(home: Path, patience: Patience = PATIENT) -> Iterator[Courier]:
    """A courier that works until the block ends, and stops in order."""
    ready = threading.Event()
    made: list[Courier] = []
    failed: list[BaseException] = []

    async def main() -> None:
        made.extend([Courier(home, Manner(HOSTNAME, patience))])
        made[0].loop = asyncio.get_running_loop()
        ready.set()
        await made[0].run()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield made[0]
    finally:
        if thread.is_alive():
            made[0].loop.call_soon_threadsafe(made[0].stop)
        thread.join(30)
        assert not thread.is_alive()
    assert not failed, failed


def get_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that works on the test's database."""
    database = connection.settings_dict
    url = f"postgresql://{database['USER']}:{database['PASSWORD']}@{database['HOST']}:{database['PORT']}/{database['NAME']}"
    return (
        os.environ
        | {
            "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "portal.settings.test",
            "LAZARET_HOME": str(home),
        }
        | more
    )


class CourierProcess:
    """`manage.py courier`, to be killed."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home

    def start(self) -> None:
        self.log = open(self.home / "courier.log", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / "manage.py"), "courier"],
            env=get_environment(self.home),
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.log.close()
        return code


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until it is so."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not come to pass"
        sleep(0.02)
