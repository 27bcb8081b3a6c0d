"""What servers took and the database does not know yet: a line each, written before anything else happens.

Between a server's 250 and the commit that records it lies a moment in which the courier may be killed, or the power
cut. A line appended by one write() survives the process, and after `flush` the machine. At the next start the lines are
recorded before anything is sent, so that what is doubled at most was between the server's 250 and our reading of it.

A courier owns a slot: a directory with a lock, a name and a journal. One that starts also takes over the journals of
the slots that nobody holds any more.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

log = logging.getLogger(__name__)

REWRITE_BYTES = 1_000_000
MAX_SLOTS = 64


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that is done: what its server answered, and when; how: see Outcome.

    `made` is the job's own time: where a database was restored, its id and its recipient's may be another's by now.
    """

    job: int
    schema: str
    recipient: int
    reply: str
    at: datetime
    how: str = ""
    made: datetime | None = None  # in lines of former versions it is missing

    def is_of(self, schema: str, recipient: int, made: datetime) -> bool:
        """Whether it is about this job, which has its id."""
        return (schema, recipient) == (self.schema, self.recipient) and self.made in {None, made}


class Journal:
    """An open journal; not for more than one process (see `Slot`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[int, bytes] = {}  # by job, not committed yet
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.noted = self.flushed = 0  # lines, ever
        self._flushing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "journal")

    def note(self, taken: Taken) -> None:
        """Write it down, at once. A full disk is only logged: the database is told in any case."""
        line = write_line(taken)
        self.lines[taken.job] = line
        self.noted += 1
        try:
            if (written := os.write(self.handle, line)) < len(line):
                # Else the next line would be joined to it, and lost with it.
                os.ftruncate(self.handle, os.fstat(self.handle).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            log.error("journal_not_written error=%s", error.strerror)  # noqa: TRY400

    async def flush(self) -> None:
        """Return when what was noted by now is on disk, or cannot be. Who asks meanwhile shares the next flush."""
        wanted = self.noted
        while self.flushed < wanted:
            if self._flushing is None:
                self._flushing = asyncio.create_task(self._flush())
            await asyncio.shield(self._flushing)

    async def _flush(self) -> None:
        noted = self.noted
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, os.fdatasync, self.handle)
        except (OSError, RuntimeError) as error:  # of the disk, or of a thread that is gone
            log.error("journal_not_flushed error=%s", getattr(error, "strerror", error))  # noqa: TRY400
        finally:
            self.flushed, self._flushing = noted, None

    def forget(self, jobs: list[int]) -> None:
        """These are committed. The file is emptied when nothing else is in it, rewritten when it has grown."""
        if not any([self.lines.pop(job, None) for job in jobs]):
            return
        if not self.lines:
            os.ftruncate(self.handle, 0)
        elif os.fstat(self.handle).st_size > REWRITE_BYTES:
            try:
                self.rewrite()
            except OSError as error:  # it stays as long as it is
                log.error("journal_not_rewritten error=%s", error.strerror)  # noqa: TRY400

    def rewrite(self) -> None:
        """Leave in it, on disk, what is not committed yet. Raises OSError."""
        fresh = self.path.with_suffix(".new")
        try:
            with fresh.open("wb") as stream:
                stream.write(b"".join(self.lines.values()))
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(self.path)
            flush_directory(self.path.parent)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        self._thread.submit(os.close, self.handle)  # after a flush of it that may be under way
        self.handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        self._thread.shutdown()
        os.close(self.handle)


def flush_directory(path: Path) -> None:
    """Have the names in it on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_line(taken: Taken) -> bytes:
    return json.dumps(asdict(taken), default=datetime.isoformat).encode() + b"\n"


def read_journal(path: Path) -> list[Taken]:
    """What stands in a journal; a line that was cut off is not there."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [taken for line in lines if (taken := read_line(line))]


def read_line(line: bytes) -> Taken | None:
    try:
        fields = json.loads(line)
        made = fields.get("made")
        times = {"at": datetime.fromisoformat(fields["at"]), "made": made and datetime.fromisoformat(made)}
        return Taken(**fields | times)
    except (ValueError, TypeError, KeyError, AttributeError):
        log.error("journal_line_broken octets=%d", len(line))
        return None


class Slot:
    """A directory below LAZARET_HOME/courier that one courier at a time holds; its name outlives the process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        self.journal_path = directory / "journal"

    def take(self) -> bool:
        """Lock the slot; False when another courier has it."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leave(self) -> None:
        os.close(self.lock)

    @property
    def name(self) -> str:
        """Who claims jobs from this slot: unlike any other machine's or LAZARET_HOME's."""
        path = self.directory / "name"
        if not path.is_file() or not path.read_text().strip():
            path.write_text(f"{socket.gethostname()[:40]}-{self.directory.name}-{secrets.token_hex(4)}")
        return path.read_text().strip()[:64]


def take_slot(home: Path) -> Slot:
    """The first free slot below `home`. Raises RuntimeError when there are too many couriers."""
    for number in range(1, MAX_SLOTS + 1):
        slot = Slot(home / str(number))
        if slot.take():
            return slot
        slot.leave()
    raise RuntimeError(f"{MAX_SLOTS} couriers are running already.")


def take_left_slots(home: Path, own: Slot) -> list[Slot]:
    """The slots that nobody holds, though somebody did."""
    found = []
    for directory in sorted(home.iterdir()):
        if directory == own.directory or not (directory / "journal").is_file():
            continue
        slot = Slot(directory)
        if slot.take():
            found.append(slot)
        else:
            slot.leave()
    return found
