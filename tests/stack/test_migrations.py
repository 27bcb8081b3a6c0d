"""Models, migrations and schemas agree."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from portal.tenants.database import get_conninfo
from portal.tenants.schemas import find_behind, migrate_behind
from quarantine.platform.models import Unrouted
from tests.running_courier import wait_until


def test_no_migration_is_missing(db):
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_nothing_is_migrated_that_is_not_behind(committed):
    assert migrate_behind() == []


def test_only_the_schema_that_is_behind_is_migrated(committed):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM sp_acme.django_migrations WHERE (app, name) = ('reports', '0001_initial')")
    assert find_behind(["public", "sp_acme", "sp_globex"]) == ["sp_acme"]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sp_acme.django_migrations (app, name, applied) VALUES ('reports', '0001_initial', now())"
        )
    assert find_behind(["public", "sp_acme", "sp_globex"]) == []


@pytest.mark.django_db
def test_a_schema_without_tables_is_behind():
    assert find_behind(["public", "sp_new"]) == ["sp_new"]


def migrate(name: str) -> None:
    try:
        call_command("migrate_schemas", "platform", name, schema_name="public", verbosity=0, interactive=False)
    finally:
        connection.close()


def is_waiting() -> bool:
    """Whether somebody waits for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return cursor.fetchone() != (0,)


def list_trace_indexes() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexname FROM pg_indexes WHERE tablename = 'platform_unrouted' AND indexdef ~ '[(]trace_id'"
        )
        return sorted(name for (name,) in cursor.fetchall())


def test_an_index_goes_and_comes_back_while_the_table_is_read_and_written(committed):
    migrate("0009_write_to_shared_tables_by_functions")
    before = list_trace_indexes()
    with psycopg.connect(get_conninfo()) as reader, ThreadPoolExecutor(1) as threads:
        reader.execute("SELECT count(*) FROM platform_unrouted")  # a search that goes on
        dropping = threads.submit(migrate, "0010_find_what_reached_nobody_by_one_index")
        try:
            wait_until(is_waiting)
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '5s'")
                Unrouted.objects.create(trace_id="x", at=timezone.now(), reply="550 no")
        finally:
            reader.rollback()
            dropping.result()
    assert len(before) == 2
    assert list_trace_indexes() == ["unrouted_trace"]
