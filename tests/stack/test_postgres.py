"""The embedded PostgreSQL: what it writes down of statements that fail."""

import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

from portal.stack.postgres import EmbeddedPostgres

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
