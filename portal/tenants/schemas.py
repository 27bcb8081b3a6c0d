"""Bringing every schema's tables up to date, touching only those that are behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from psycopg import sql

from portal.tenants.database import get_conninfo
from portal.tenants.models import ServiceProvider

PUBLIC = "public"
MIGRATION_LOCK = 0x6C617A61  # an advisory lock: two machines may start at once
CHUNK = 100  # schemas a query


def migrate_behind() -> list[str]:
    """Migrate the public schema, then each provider's, where it lacks a migration; return the schemas that did."""
    with _lock():
        done = []
        if find_behind([PUBLIC]):
            call_command("migrate_schemas", shared=True, verbosity=0, interactive=False)
            done.append(PUBLIC)
        providers = ServiceProvider.objects.exclude(schema_name=PUBLIC).order_by("schema_name")
        for schema in find_behind(list(providers.values_list("schema_name", flat=True))):
            call_command("migrate_schemas", schema_name=schema, tenant=True, verbosity=0, interactive=False)
            done.append(schema)
        return done


def find_behind(schemas: list[str]) -> list[str]:
    """Those of `schemas` that lack a migration; one query for a hundred of them."""
    wanted = [".".join(key) for key in MigrationLoader(None, ignore_no_migrations=True).disk_migrations or ()]
    complete = set()
    for start in range(0, len(schemas), CHUNK):
        complete |= _find_complete(schemas[start : start + CHUNK], wanted)
    return [schema for schema in schemas if schema not in complete]


def _find_complete(schemas: list[str], wanted: list[str]) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'django_migrations'")
        started = {schema for (schema,) in cursor.fetchall()}.intersection(schemas)
        if not started:
            return set()
        parts = [
            sql.SQL("SELECT {name} WHERE %s::text[] <@ ARRAY(SELECT app || '.' || name FROM {table})").format(
                name=sql.Literal(schema), table=sql.Identifier(schema, "django_migrations")
            )
            for schema in sorted(started)
        ]
        cursor.execute(sql.SQL(" UNION ALL ").join(parts).as_string(cursor.connection), [wanted] * len(parts))
        return {schema for (schema,) in cursor.fetchall()}


@contextmanager
def _lock() -> Iterator[None]:
    with psycopg.connect(get_conninfo(application_name="lazaret-migrate"), autocommit=True) as database:
        database.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        yield
