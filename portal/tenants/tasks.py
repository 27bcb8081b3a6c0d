"""Celery tasks that work inside one provider: the schema is their first argument, said aloud."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import Task, shared_task
from django_tenants.utils import schema_context

from portal.tenants.models import ServiceProvider


def tenant_task(**options: Any) -> Callable[[Callable[..., None]], Task]:
    """Make a task of a function: called as task.delay(schema, ...), it runs the function inside that schema.

    A schema that is no provider's (any more) ends the task with ServiceProvider.DoesNotExist before anything is done.
    """

    def decorate(function: Callable[..., None]) -> Task:
        @wraps(function)
        def run(schema: str, *args: Any, **kwargs: Any) -> None:
            with schema_context("public"):
                ServiceProvider.objects.get(schema_name=schema)
            with schema_context(schema):
                function(*args, **kwargs)

        return shared_task(**options)(run)

    return decorate
