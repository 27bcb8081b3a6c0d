"""`./run` whose power is cut as far as a machine can do that to a part of itself: every process stops at once, and its
file system too, so that whatever the kernel had not written out is gone (EXT4_IOC_SHUTDOWN). Then both begin anew, the
file system with its journal.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.running import Stack
from tests.servers import PREFIX

SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
WITHOUT_LOG = struct.pack("I", 2)  # not even the journal is written out
DISK_OCTETS = 3 * 2**30
END_SECONDS = 30


def find_obstacle() -> str:
    """Why this cannot be done here, in a sentence; empty where it can."""
    if os.geteuid() != 0:
        return "only root may mount"
    if not shutil.which("mkfs.ext4"):
        return "mkfs.ext4 not installed"
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        (place / "mounted").mkdir()
        done = mount(make_disk(place / "disk", octets=2**24), place / "mounted", check=False)
        if done.returncode:
            return done.stderr.strip()
        subprocess.run(["umount", place / "mounted"], check=True)
    return ""


def make_disk(image: Path, content: Path | None = None, *, octets: int = DISK_OCTETS) -> Path:
    """An ext4 as Debian makes it, with a directory's content in it."""
    with image.open("wb") as file:
        file.truncate(octets)
    filled = ["-d", str(content)] if content else []
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", *filled, str(image)], check=True)
    return image


def mount(image: Path, place: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", "-o", "loop", image, place], check=check, capture_output=True, text=True)


class CutProcesses:
    """Switch it on and cut it off; `close` leaves nothing."""

    def __init__(self, content: Path) -> None:
        """On its disk is what is in `content`, of which `home` is LAZARET_HOME."""
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.directory.chmod(0o755)
        self.mounted = self.directory / "mounted"
        self.mounted.mkdir(mode=0o755)
        self.image = make_disk(self.directory / "disk", content)
        self.stack = Stack(self.mounted / "home")
        self.port = self.stack.smtp[1]

    def power_on(self) -> None:
        mount(self.image, self.mounted)
        self.stack.start("--empty")

    def cut_power(self) -> None:
        processes = self._freeze()
        self._stop_file_system()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert self.stack.process
        self.stack.process.wait(END_SECONDS)
        psutil.wait_procs(processes, END_SECONDS)
        subprocess.run(["umount", self.mounted], check=True)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        self.stack.wait_until(condition, seconds)

    def close(self) -> None:
        self.stack.remove()
        subprocess.run(["umount", "-l", self.mounted], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _freeze(self) -> list[psutil.Process]:
        """Parents first, until there is nobody new."""
        assert self.stack.process
        top = psutil.Process(self.stack.process.pid)
        frozen: list[psutil.Process] = []
        while found := [process for process in [top, *top.children(recursive=True)] if process not in frozen]:
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            frozen += found
        return frozen

    def _stop_file_system(self) -> None:
        place = os.open(self.mounted, os.O_RDONLY)
        try:
            fcntl.ioctl(place, SHUT_DOWN, WITHOUT_LOG)
        finally:
            os.close(place)
