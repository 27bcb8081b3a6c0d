"""The embedded PostgreSQL: what it writes down of statements that fail."""

import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

from portal.stack import postgres
from portal.stack.postgres import EmbeddedPostgres, fit_to_machine

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE = THP.read_text() if THP.is_file() else ""
MARKER = "marker-of-a-subject"


@pytest.fixture(scope="module")
def server():
    home = Path(tempfile.mkdtemp(prefix="lazaret-postgres-"))
    home.chmod(0o755)
    made = EmbeddedPostgres(home / "postgres")
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(home.resolve(), ignore_errors=True)


@pytest.mark.parametrize("cursor", [psycopg.ClientCursor, psycopg.Cursor], ids=["values in the text", "values apart"])
def test_no_value_of_a_failing_statement_is_logged(server, cursor):
    with psycopg.connect(server.url, autocommit=True, cursor_factory=cursor) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS mail (subject text UNIQUE CHECK (subject <> ''), size bigint)")
        connection.execute("TRUNCATE mail")
        connection.execute("INSERT INTO mail VALUES (%s)", [MARKER])
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO mail VALUES (%s)", [MARKER])
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("INSERT INTO mail VALUES (%s, 1 / (%s - 1))", [MARKER + "2", 1])
    log = server.log.read_text()
    assert "mail_subject_key" in log
    assert "division by zero" in log
    assert MARKER not in log


@pytest.mark.skipif("[madvise]" not in HUGE, reason="the kernel gives huge pages to everybody, or to nobody")
def test_what_connections_remember_is_on_huge_pages(server):
    with psycopg.connect(server.url) as connection:
        for number in range(2000):  # in memory until the connection ends
            connection.execute(f"PREPARE p{number} AS SELECT count(*) FROM pg_class WHERE oid = {number}")
        pid = connection.info.backend_pid
        [line] = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if "AnonHuge" in line]
    assert int(line.split()[1]) > 0


@pytest.mark.parametrize(
    ("limit", "cache"), [(str(2**30), "256MB"), (str(4 * 2**30), "512MB"), ("max", None), ("", None)]
)
def test_a_container_with_little_memory_gets_a_small_cache(tmp_path, monkeypatch, limit, cache):
    file = tmp_path / "memory.max"
    if limit:
        file.write_text(f"{limit}\n")
    monkeypatch.setattr(postgres, "CONTAINER_LIMIT", file)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * 2**18}.get)
    assert fit_to_machine() == {"shared_buffers": cache or "2048MB"}
