"""A real Postfix for tests: its own configuration, spool and ports in a temporary directory, gone at the end.

Needs Debian's package and root; no system instance, syslog, chroot or set-gid program is touched.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portal.stack.process import die_with_parent, find_free_port
from tests.running_courier import wait_until
from tests.servers import PREFIX

SBIN = "/usr/sbin:/usr/bin:/sbin:/bin"  # not on everybody's PATH
QUEUES = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt")
MAIN = """
compatibility_level = 3.6
queue_directory = {directory}/spool
data_directory = {directory}/data
maillog_file = {directory}/maillog
maillog_file_prefixes = {directory}
myhostname = postfix.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
alias_maps =
local_recipient_maps =
local_header_rewrite_clients =
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no
minimal_backoff_time = 3600s
queue_run_delay = 3600s
smtp_connect_timeout = 5s
"""
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
showq unix n - n - - showq
tlsmgr unix - - n 1000? 1 tlsmgr
smtp unix - - n - - smtp
relay unix - - n - - smtp
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """One instance, listening at 127.0.0.1:`port`, with these settings beside the ones above."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.port = find_free_port()
        self.log_file = directory / "maillog"
        self.process: subprocess.Popen[bytes] | None = None
        main = MAIN + "".join(f"{name} = {value}\n" for name, value in settings.items())
        for name in ("spool", "data", "mail"):
            (directory / name).mkdir()
        shutil.chown(directory / "data", "postfix")
        shutil.chown(directory / "mail", "nobody")
        (directory / "main.cf").write_text(main.format(directory=directory))
        (directory / "master.cf").write_text(MASTER.format(port=self.port))

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def start(self) -> None:
        """As `postfix start-fg`, but without a shell between us and the process that ends all others when it ends."""
        self.run("postfix", "check")
        daemons = subprocess.check_output(["postconf", "-dh", "daemon_directory"], env={"PATH": SBIN}, text=True)
        with (self.directory / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [f"{daemons.strip()}/master", "-c", str(self.directory), "-s"],
                env={"PATH": SBIN},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        wait_until(lambda: "daemon started" in self.log, 30)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def run(self, *words: str) -> None:
        subprocess.run([words[0], "-c", str(self.directory), *words[1:]], env={"PATH": SBIN}, check=True, timeout=60)

    def flush(self) -> None:
        """Try everything again now."""
        self.run("postqueue", "-f")

    def list_queue(self) -> list[Path]:
        """Every message that is still in Postfix's hands."""
        return [path for name in QUEUES for path in (self.directory / "spool" / name).rglob("*") if path.is_file()]

    def wait_empty(self, seconds: float = 60) -> None:
        wait_until(lambda: not self.list_queue(), seconds)

    def find_lines(self, pattern: str) -> list[str]:
        return [line for line in self.log.splitlines() if re.search(pattern, line)]

    def read_mail(self, address: str) -> list[bytes]:
        """The files of a mailbox of virtual(8), oldest first; lines end with LF."""
        files = (self.directory / "mail" / address / "new").glob("*")
        return [path.read_bytes() for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]


def need_postfix() -> None:
    """Skip, visibly, where a Postfix cannot be had."""
    if not shutil.which("postfix", path=SBIN):
        pytest.skip("Postfix is not installed (Debian: apt install postfix)")
    if os.geteuid() != 0:
        pytest.skip("Postfix is started by root only")


@contextmanager
def run_postfix(**settings: str) -> Iterator[Postfix]:
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    directory.chmod(0o755)
    postfix = Postfix(directory, **settings)
    try:
        postfix.start()
        yield postfix
    finally:
        postfix.stop()
        shutil.rmtree(directory, ignore_errors=True)
