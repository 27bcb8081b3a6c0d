"""A backup that is made while mail comes, as docs/operations.md says, and restored elsewhere."""

from __future__ import annotations

import subprocess

import pytest

from quarantine.content import restore
from tests.faults.ground import Ground, wait_until
from tests.faults.traffic import Traffic, read_log

pytestmark = pytest.mark.faults


def test_a_backup_restored_elsewhere_has_all_mail_octet_by_octet(tmp_path):  # Q23
    dump, log = tmp_path / "lazaret.dump", tmp_path / "taken.log"
    ground, elsewhere = Ground(), Ground()
    try:
        ground.start_gateway()
        ground.wait_for_session().close()
        with Traffic(ground.port, log, name="backup", pause=0.02) as traffic:
            wait_until(lambda: len(traffic.taken) >= 30, 30)
            before = set(traffic.taken)
            run(ground, "pg_dump", "--format=custom", f"--file={dump}", ground.postgres.url)
            wait_until(lambda: len(traffic.taken) >= len(before) + 10, 30)
            traffic.end()
        run(elsewhere, "pg_restore", "--clean", "--if-exists", f"--dbname={elsewhere.postgres.url}", str(dump))
        assert before <= set(elsewhere.list_senders()) <= read_log(log)[1]
        assert restore_all(elsewhere) == len(elsewhere.list_senders())
        assert list_rows(elsewhere) <= list_rows(ground)
        # It is no museum: mail comes in there, under ids that go on.
        elsewhere.start_gateway()
        elsewhere.wait_for_session().close()
        with Traffic(elsewhere.port, tmp_path / "later.log", name="later", pause=0.02) as traffic:
            wait_until(lambda: len(traffic.taken) >= 5, 30)
            traffic.end()
        assert set(traffic.taken) <= set(elsewhere.list_senders())
    finally:
        ground.stop()
        elsewhere.stop()


def run(ground: Ground, program: str, *arguments: str) -> None:
    command = [str(ground.postgres._program(program)), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def ask(ground: Ground, query: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
    with ground.connect() as database:
        return database.execute(query.encode(), values).fetchall()


def list_rows(ground: Ground) -> set[tuple[str, ...]]:
    query = (
        "SELECT m.trace_id, m.sender, m.replies::text, r.address, r.state, e.kind, e.text"
        " FROM sp_acme.quarantine_message m JOIN sp_acme.quarantine_recipient r ON r.message_id = m.id"
        " JOIN sp_acme.quarantine_event e ON e.recipient_id = r.id"
    )
    return set(ask(ground, query))


def restore_all(ground: Ground) -> int:
    """How many messages have the octets that were received. Raises ContentDamagedError for one that has not."""
    rows = ask(
        ground,
        "SELECT c.codec, c.data, m.size, m.sha256 FROM sp_acme.quarantine_message m"
        " JOIN sp_acme.quarantine_content c ON c.message_id = m.id",
    )
    return len([restore(codec, data, size=size, sha256=digest) for codec, data, size, digest in rows])
