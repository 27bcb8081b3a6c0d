"""Models, migrations and schemas agree."""

import pytest
from django.core.management import call_command
from django.db import connection

from portal.tenants.schemas import find_behind, migrate_behind


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
