"""Settings as a process of its own reads them: what a proxy with TLS needs, and sentences for wrong values."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from portal.settings.environment import PROJECT
from portal.settings.logs import hide_tokens

TOKEN = "abcdefghijklmnopqrstuvwxyz234567"
SIGN_IN = """
import django
django.setup()
from django.conf import settings
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware, get_token
from django.test import RequestFactory
made = RequestFactory().get("/")
token = get_token(made)
form = RequestFactory().post(
    "/sign-in/", {"csrfmiddlewaretoken": token}, HTTP_HOST="quarantine.acme.example",
    HTTP_ORIGIN="https://quarantine.acme.example", HTTP_X_FORWARDED_PROTO="https",
)
form.COOKIES[settings.CSRF_COOKIE_NAME] = made.META["CSRF_COOKIE"]
check = CsrfViewMiddleware(lambda request: HttpResponse())
check.process_request(form)
print(check.process_view(form, lambda request: None, (), {}) is None, settings.SESSION_COOKIE_SECURE)
"""


def run(script: str, tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAZARET_", "DJANGO_"))}
    for name in ("DATABASE_URL", "BROKER_URL", "CACHE_URL"):
        kept.pop(name, None)
    environment = {"LAZARET_HOME": str(tmp_path), "DJANGO_SETTINGS_MODULE": "portal.settings.embedded"} | environment
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=PROJECT, env=kept | environment, capture_output=True, text=True, check=False)


def test_behind_a_proxy_with_tls_forms_are_taken_and_cookies_are_secure(tmp_path):
    """With the embedded servers too: the proxy speaks plain HTTP with us, the browser names an https origin."""
    done = run(SIGN_IN, tmp_path, LAZARET_PORTAL_URL="https://{hostname}")
    assert done.stdout.split() == ["True", "True"], done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAZARET_PORTAL_URL", "https://portal.example"),
        ("LAZARET_PORTAL_URL", "https://{hostname}/{path}"),
        ("LAZARET_PORTAL_URL", "https://{hostname.x}"),
        ("LAZARET_PORTAL_URL", "https://{hostname}/quarantine"),
        ("LAZARET_HOSTNAME", "mx1 example"),
        ("LAZARET_HOSTNAME", "mx1.example\r\nX: y"),
        ("LAZARET_SMTP", "127.0.0.1:\N{SUPERSCRIPT TWO}"),
        ("LAZARET_GATEWAYS", "\N{SUPERSCRIPT TWO}"),
        ("LAZARET_METRICS", "10.0.0.0/33"),
        ("LAZARET_MAX_RECIPIENTS", "99"),
        ("LAZARET_MAX_CONNECTIONS", "9"),
        ("LAZARET_MAX_CLIENT_CONNECTIONS", "0"),
        ("LAZARET_PROXY_PROTOCOL", "balancer.example"),
        ("DATABASE_URL", "postgresql://lazaret:se/cret@db.example/lazaret"),
    ],
)
def test_a_wrong_value_is_answered_with_one_sentence_that_names_it(tmp_path, name, value):
    done = run("from django.conf import settings; settings.DEBUG", tmp_path, **{name: value})
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"django.core.exceptions.ImproperlyConfigured: {name} "), done.stderr
    assert "cret" not in last


def test_servers_of_ones_own_have_no_demo(tmp_path):
    own = {
        "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x",
        "BROKER_URL": "redis://127.0.0.1:1/0",
        "LAZARET_SECRET_KEY": "k" * 48,
        "LAZARET_DEMO": "1",
        "DJANGO_SETTINGS_MODULE": "portal.settings.production",
    }
    done = run("from django.conf import settings; print(settings.DEMO)", tmp_path, **own)
    assert done.stdout.strip() == "False", done.stderr


def test_a_command_says_in_one_sentence_that_nothing_runs(tmp_path):
    script = "import sys, manage; sys.argv[1:] = ['trace', '0123456789ABCDEFGHJK']; manage.main()"
    done = run(script, tmp_path)
    assert done.stderr.strip().splitlines()[-1].startswith("lazaret: PostgreSQL cannot be used ")
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("path", [f"/d/{TOKEN}/", f"/D/{TOKEN.upper()}%29", f"/D/{TOKEN}.", f"/d//{TOKEN}"])
def test_no_spelling_of_a_links_path_brings_its_token_into_a_log(path):
    assert TOKEN not in hide_tokens(f"request method=GET path={path} status=200").lower()
