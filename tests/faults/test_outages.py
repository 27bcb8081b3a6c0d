"""Mail comes all the time while something is away: no 5xx, nothing lost, nothing doubled, and on it goes by itself.

LONG_FAULTS=1 makes the pauses as long as the reference has them.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.dns_server import DnsServer
from tests.faults.ground import CANNOT_STORE, RECOVERY_SECONDS, Ground, wait_until
from tests.faults.test_database_away import signal_all, signal_each
from tests.faults.traffic import Traffic, read_log
from tests.quarantine.gateways import Client
from tests.quarantine.test_gateway_mail import CLEAN
from tests.quarantine.test_gateway_session import RECIPIENT_OK, TEMPORARY
from tests.running import set_read_only
from tests.world import make_mail

pytestmark = pytest.mark.faults

IS_LONG = os.environ.get("LONG_FAULTS") == "1"
PAUSE_SECONDS = 90 if IS_LONG else 30
LOCK_SECONDS = 300 if IS_LONG else 6
NO_SPACE = "452 4.3.1 Insufficient system storage, please try again later"


@pytest.fixture(scope="module")
def any_ground() -> Iterator[Ground]:
    ground = Ground(settings={"max_connections": "40"})
    try:
        yield ground
    finally:
        ground.stop()


@pytest.fixture
def ground(any_ground: Ground) -> Ground:
    """With a gateway as it should be."""
    if any_ground.process is None or any_ground.process.poll() is not None:
        any_ground.start_gateway()
    any_ground.wait_for_session().close()
    return any_ground


@contextmanager
def other_gateway(ground: Ground, *arguments: object, **more: object) -> Iterator[None]:
    """With one that was started in some other way, until the end of the block."""
    if ground.process and ground.process.poll() is None:
        ground.kill_gateway()
    ground.start_gateway(*arguments, **more)  # type: ignore[arg-type]
    try:
        ground.wait_for_session().close()
        yield
    finally:
        ground.kill_gateway()


@contextmanager
def under_way(ground: Ground, name: str, *schemas: str, **more: object) -> Iterator[Traffic]:
    """Mail before, during and after what the test does. Afterwards the books are checked."""
    log = ground.home / f"{name}.log"
    with Traffic(ground.port, log, name=name, pause=0.02, lose_replies=0.05, **more) as traffic:  # type: ignore[arg-type]
        wait_until(lambda: len(traffic.taken) >= 20, 30)
        yield traffic
        over_at = time.monotonic()
        wait_until(lambda: traffic.has_taken_since(over_at), RECOVERY_SECONDS)
        wait_until(lambda: len(traffic.taken) >= 40, 30)
        traffic.end()
    assert traffic.list_refusals() == []
    tried, taken = read_log(log)
    assert taken == set(traffic.taken)
    assert tried == taken  # everything tried got through in the end
    assert ground.account(taken, *schemas) == ([], [])


def wait_for_refusal(traffic: Traffic, since: float, reply: str = CANNOT_STORE) -> float:
    """When a message that was offered was first answered so."""
    wait_until(lambda: reply in traffic.list_heard("OFFER", since), 20)
    return next(one.at for one in traffic.heard if (one.verb, one.reply) == ("OFFER", reply) and one.asked_at >= since)


def assert_all_put_off(traffic: Traffic, since: float, until: float) -> None:
    """As long as it was known, nobody was let as far as DATA."""
    assert set(traffic.list_heard("OFFER", since, until)) == {CANNOT_STORE}
    assert traffic.list_heard("OFFER", since, until)


def test_postgresql_stopped(ground):  # Q11
    with under_way(ground, "stopped") as traffic:
        begun_at = time.monotonic()
        ground.postgres.stop()
        known_at = wait_for_refusal(traffic, begun_at)
        time.sleep(2)
        mended_at = time.monotonic()
        ground.start_postgres()
    assert_all_put_off(traffic, known_at, mended_at)


def test_postgresql_paused(ground):  # Q12
    with under_way(ground, "paused") as traffic:
        begun_at = time.monotonic()
        stopped = signal_all(ground.postgres.process.pid, signal.SIGSTOP)
        try:
            known_at = wait_for_refusal(traffic, begun_at)
            time.sleep(PAUSE_SECONDS - (known_at - begun_at))
            mended_at = time.monotonic()
        finally:
            signal_each(stopped, signal.SIGCONT)
    assert known_at - begun_at < PAUSE_SECONDS / 2  # early
    assert_all_put_off(traffic, known_at, mended_at)


def test_postgresql_killed_for_memory(ground):  # Q07: one of its processes, and it begins anew
    with under_way(ground, "killed"), ground.connect() as database:
        [(pid,)] = database.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'lazaret-gateway' LIMIT 1"
        ).fetchall()
        os.kill(pid, signal.SIGKILL)


def test_postgresql_full_of_connections(ground):  # Q14
    with under_way(ground, "connections") as traffic:
        taken: list[psycopg.Connection[tuple[object, ...]]] = []
        begun_at = time.monotonic()
        try:
            taken.append(ground.connect())
            wait_until(lambda: fill_connections(ground, taken, traffic, begun_at), 20)
            known_at = wait_for_refusal(traffic, begun_at)
            time.sleep(2)
            mended_at = time.monotonic()
        finally:
            for connection in taken:
                connection.close()
    assert_all_put_off(traffic, known_at, mended_at)


def fill_connections(ground: Ground, taken: list, traffic: Traffic, begun_at: float) -> bool:
    """Take every connection there is, the gateway's too; whether it knows by now."""
    with suppress(psycopg.OperationalError):
        while True:
            taken.append(ground.connect())
    taken[0].execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'lazaret-%'")
    return CANNOT_STORE in traffic.list_heard("OFFER", begun_at)


def test_postgresql_read_only(ground):  # Q13
    with under_way(ground, "read-only") as traffic, ground.connect() as database:
        begun_at = time.monotonic()
        set_read_only(database, "on")
        try:
            known_at = wait_for_refusal(traffic, begun_at)
            time.sleep(3)
            mended_at = time.monotonic()
        finally:
            set_read_only(database, "off")
    assert_all_put_off(traffic, known_at, mended_at)


def test_one_providers_table_locked(ground):  # Q15: the others go on
    with (
        under_way(ground, "locked") as traffic,
        under_way(ground, "free", "sp_globex", recipients=("gus@gamma.test",)) as others,
    ):
        with ground.connect() as blocker, blocker.transaction():
            blocker.execute("LOCK sp_acme.quarantine_message IN ACCESS EXCLUSIVE MODE")
            locked_at = time.monotonic()
            wait_until(lambda: TEMPORARY in traffic.list_heard("RCPT", locked_at), 20)
            known_at = time.monotonic()
            time.sleep(LOCK_SECONDS)
            mended_at = time.monotonic()
            assert others.has_taken_since(mended_at - 1)
        assert RECIPIENT_OK not in traffic.list_heard("RCPT", known_at, mended_at)
    assert CANNOT_STORE not in others.list_heard("OFFER", locked_at)


def test_a_poison_message_fails_alone(ground):  # Q21
    """A row that PostgreSQL will not take, however often it comes."""
    with ground.connect() as database:
        database.execute(
            "ALTER TABLE sp_acme.quarantine_message ADD CONSTRAINT poison CHECK (sender <> 'poison@sender.example')"
        )
    try:
        with under_way(ground, "poison"):
            client = ground.wait_for_session()
            for _ in range(5):
                assert client.mail("poison@sender.example", data=CLEAN) == TEMPORARY
    finally:
        with ground.connect() as database:
            database.execute("ALTER TABLE sp_acme.quarantine_message DROP CONSTRAINT poison")


def test_more_clients_than_it_can_serve(ground):  # Q20
    """Several times as many as are served well, with large messages: told to wait or served, and soon well again."""
    body = os.urandom(50_000).hex("\n", 32).replace("\n", "\r\n").encode() + b"\r\n"
    memory, log = psutil.Process(ground.process.pid).memory_info, ground.home / "more.log"
    with under_way(ground, "overload"):
        before = memory().rss
        with Traffic(ground.port, log, name="more", clients=20, make=lambda name: make_mail(name) + body) as more:
            time.sleep(600 if IS_LONG else 5)
            most = memory().rss
            more.end()
    assert len(more.taken) >= 20
    assert more.list_refusals() == []
    assert {reply[:3] for reply in more.list_heard("OFFER")} <= {"250", "421", "451", "452", ""}
    assert most - before < 256 * 2**20
    assert ground.account(read_log(log)[1]) == ([], [])


MIGRATIONS = {
    "add": "ALTER TABLE {} ADD COLUMN later integer",
    "default": "ALTER TABLE {} ADD COLUMN soon integer NOT NULL DEFAULT 1",
    "index": "CREATE INDEX ON {} ((1))",
    "generated": "ALTER TABLE {} ADD COLUMN made integer GENERATED ALWAYS AS (1) STORED",
    "drop": "ALTER TABLE {} DROP COLUMN later, DROP COLUMN soon, DROP COLUMN made",
}


@pytest.mark.parametrize("what", MIGRATIONS)
def test_a_migration_while_the_old_code_runs(ground, what):  # Q19
    """The statements that migrations are made of, on every table that a message touches."""
    hot = [f"sp_acme.quarantine_{name}" for name in ("message", "recipient", "content", "event")]
    hot += ["sp_acme.people_mailbox", "public.tenants_maildomain", "public.platform_deliveryjob"]
    with under_way(ground, f"migration-{what}") as traffic:
        begun_at = time.monotonic()
        with ground.connect() as database:
            for table in hot:
                database.execute(MIGRATIONS[what].format(table).encode())
                time.sleep(0.2)
        assert traffic.has_taken_since(begun_at)


# What needs a gateway or a PostgreSQL of its own


@pytest.mark.parametrize(
    ("what", "place"), [("octets", "data"), ("inodes", "data"), ("octets", "pg_wal"), ("inodes", "pg_wal")]
)
def test_the_disk_full(tmp_path, what, place):  # Q10
    disk = tmp_path / "disk"
    fill, empty = {"octets": (fill_disk, Path.unlink), "inodes": (use_up_inodes, shutil.rmtree)}[what]
    with mount(disk, "320m,nr_inodes=16k") as is_mounted:
        if not is_mounted:
            pytest.skip("no right to mount a small file system; test_load.py has the arithmetic")
        data = disk / "postgres" if place == "data" else None
        ground = Ground(data, {"max_wal_size": "64MB"}, LAZARET_MAX_MESSAGE_BYTES="1048576")
        try:
            if place == "pg_wal":
                move_log(ground, disk)
            ground.start_gateway()
            ground.wait_for_session()
            with under_way(ground, "full") as traffic:
                begun_at = time.monotonic()
                fill(disk / "filler")
                wait_until(lambda: {NO_SPACE, CANNOT_STORE} & set(traffic.list_heard("OFFER", begun_at)), 20)
                time.sleep(3)
                assert not traffic.has_taken_since(time.monotonic() - 1)
                empty(disk / "filler")
                if ground.postgres.process.poll() is not None:  # its log of changes found no room
                    wait_until(ground.try_to_start_postgres, 60)
        finally:
            ground.stop()


def move_log(ground: Ground, disk: Path) -> None:
    """Have PostgreSQL's log of changes on a disk of its own, as its handbook advises."""
    ground.postgres.stop()
    log = ground.postgres.data / "pg_wal"
    shutil.copytree(log, disk / "pg_wal", copy_function=shutil.copy)
    owner = log.stat()
    for path in (disk / "pg_wal", *(disk / "pg_wal").rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    shutil.rmtree(log)
    log.symlink_to(disk / "pg_wal")
    ground.start_postgres()


@contextmanager
def mount(place: Path, size: str) -> Iterator[bool]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, check=False) if os.geteuid() == 0 else None
    is_mounted = done is not None and done.returncode == 0
    try:
        place.parent.chmod(0o755)
        for parent in takewhile(lambda parent: not is_shared(parent), place.parent.parents):
            parent.chmod(0o755)
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def is_shared(directory: Path) -> bool:
    """Whether it is everybody's, as /tmp is."""
    return bool(directory.stat().st_mode & stat.S_ISVTX)


def use_up_inodes(path: Path) -> None:
    path.mkdir()
    with suppress(OSError):
        for number in count():
            (path / str(number)).touch()


def fill_disk(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(2**16))


def test_a_standby_that_is_promoted():  # Q13
    ground = Ground()
    try:
        make_standby(ground)
        ground.start_gateway()
        client_heard: list[str] = []

        def try_one() -> bool:
            client = ground.open()
            if not isinstance(client, Client):
                client_heard.append(client)
                return False
            client_heard.append(client.talk("MAIL FROM:<ann@sender.example>", "RCPT TO:<bob@alpha.test>")[1])
            client.close()
            return client_heard[-1] == CANNOT_STORE

        wait_until(try_one, 30)
        with ground.connect() as database:
            database.execute("SELECT pg_promote()")
        client = wait_until(lambda: take(ground, "after@sender.example"), RECOVERY_SECONDS)
        client.close()
        assert not [reply for reply in client_heard if reply.startswith("5")]
        assert ground.list_senders() == ["after@sender.example"]
    finally:
        ground.stop()


def take(ground: Ground, sender: str) -> Client | None:
    """A session over which a message was taken."""
    client = ground.open()
    if not isinstance(client, Client):
        return None
    for command, wanted in ((f"MAIL FROM:<{sender}>", "250"), ("RCPT TO:<bob@alpha.test>", "250"), ("DATA", "354")):
        if not (reply := client.ask(command)).startswith(wanted):
            assert not reply.startswith("5"), reply
            client.close()
            return None
    assert client.send_data(CLEAN).startswith("250")
    return client


def make_standby(ground: Ground) -> None:
    """Turn the ground's PostgreSQL into a standby of a primary that is no more."""
    postgres = ground.postgres
    user = postgres.user
    command = [str(postgres._program("pg_basebackup")), "-D", str(postgres.home / "copy"), "-X", "stream", "-c", "fast"]
    done = subprocess.run(
        [*command, "-d", postgres.url],
        env=postgres._environment(),
        cwd=postgres.home,
        capture_output=True,
        check=False,
        **({"user": user.pw_uid, "group": user.pw_gid} if user else {}),
    )
    assert done.returncode == 0, done.stderr.decode()
    postgres.stop()
    postgres.data.rename(postgres.home / "primary")
    (postgres.home / "copy").rename(postgres.data)
    (postgres.data / "standby.signal").touch()
    postgres.process = postgres.make_launch().spawn()
    wait_until(postgres.is_ready, 30)


def test_a_restart_goes_on_with_the_same_rows_of_counts(any_ground):
    """Else each would leave rows for every hour and cause, for 400 days."""
    found = []
    for name in ("before", "after"):
        with other_gateway(any_ground), under_way(any_ground, name):
            pass
        with any_ground.connect() as database:
            found.append(set(database.execute("SELECT instance FROM public.platform_hourlycount").fetchall()))
    assert found[0] == found[1]


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_few_files(any_ground):  # Q08
    """More clients than it has files for: those it cannot have are told so, and it goes on when they have left."""
    with other_gateway(any_ground, limit_files), under_way(any_ground, "files"):
        crowd = [Client(any_ground.port) for _ in range(300)]
        greetings = {client.read_reply()[:3] for client in crowd}
        for client in crowd:
            client.close()
    assert greetings == {"220", "421"}


def test_the_clock_jumps(any_ground):  # Q06
    """An hour on, and two back, in the middle of everything: only what is measured by people's clocks changes."""
    shift = any_ground.home / "shift"
    shift.write_text("0")
    script = "tests/faults/shifted_gateway.py"
    with other_gateway(any_ground, script=script, SHIFT=str(shift)), under_way(any_ground, "clock") as traffic:
        open_before = any_ground.wait_for_session()
        for seconds in (3600, -3600, 0):
            write_whole(shift, str(seconds))
            jumped_at = time.monotonic()
            wait_until(lambda since=jumped_at: traffic.count_taken(since) >= 20, 30)
            assert open_before.ask("NOOP").startswith("250")
    assert not [reply for reply in traffic.list_heard() if reply.startswith("4")]
    with any_ground.connect() as database:
        [(hours,)] = database.execute(
            "SELECT count(DISTINCT date_trunc('hour', received_at)) FROM sp_acme.quarantine_message"
            " WHERE sender LIKE 'clock-%'"
        ).fetchall()
    assert hours >= 3  # it did jump


def write_whole(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_the_resolver_dead_or_lying(any_ground):  # Q17: unknown is never refused
    with DnsServer() as server, other_gateway(any_ground, LAZARET_DNS=f"127.0.0.1:{server.address[1]}"):
        for number, answer in enumerate(("SERVFAIL", "REFUSED", "GARBAGE", "DROP")):
            server.everything = answer
            client = any_ground.wait_for_session()
            assert client.ask(f"XCLIENT ADDR=198.51.100.{number}").startswith("220")
            client.ask("EHLO x")
            assert client.mail(f"{answer.lower()}@resolver.example", data=CLEAN).startswith("250")
            client.close()
