"""A page that asks too much of PostgreSQL ends with a sentence, and other processes take their time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.conf import settings
from django.db import connection

from portal.web.middleware import PatienceMiddleware
from portal.web.views import trace
from tests.portal.browsing import browse, get_text

SHOW = """
import {module}, django
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SHOW statement_timeout")
    print(cursor.fetchone()[0])
"""


@pytest.mark.parametrize(("module", "shown"), [("portal.wsgi", "5s"), ("portal.celery", "0")])
def test_only_the_web_server_has_its_statements_ended(acme, module, shown):
    database = {**os.environ, "DATABASE_URL": make_url(), "DJANGO_SETTINGS_MODULE": "portal.settings.test"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(module=module)], env=database, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [shown]


def make_url() -> str:
    fields = settings.DATABASES["default"]
    login = fields["USER"] + (f":{fields['PASSWORD']}" if fields["PASSWORD"] else "")
    return f"postgresql://{login}@{fields['HOST']}:{fields['PORT']}/{fields['NAME']}"


def test_a_search_that_takes_too_long_is_told_so(acme, monkeypatch):
    def ask_much(*args):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 50")
            cursor.execute("SELECT pg_sleep(60)")

    monkeypatch.setattr(trace, "find", ask_much)
    response = browse("bob").get("/trace/", {"q": "ann@far.test"})
    assert response.status_code == 503
    assert "Narrow the search" in get_text(response)
    assert response["Cache-Control"] == "no-store"


def test_other_faults_of_the_database_are_none_of_its_business():
    assert PatienceMiddleware(None).process_exception(None, ValueError()) is None
