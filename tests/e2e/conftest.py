"""A real browser for the end-to-end tests, and the portal served to it by this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
SignIn = Callable[[Page, str, str, str], None]


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Browser]:
    """For one module: while it runs, this thread has an event loop, in which other modules' asyncio.run would fail."""
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright's loop never runs while a test talks to Django
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def browser(_chromium: Browser) -> Iterator[Browser]:
    """Chromium; each page that it opens has cookies of its own. Pages left open are closed afterwards."""
    yield _chromium
    for context in _chromium.contexts:
        context.close()


@pytest.fixture
def sign_in() -> SignIn:
    """Sign in at a provider's portal: sign_in(page, base_url, email, password). Returns when the answer is there."""

    def sign_in(page: Page, base_url: str, email: str, password: str) -> None:
        page.goto(f"{base_url}/sign-in/")
        page.get_by_label("Email address").fill(email)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_load_state()

    return sign_in


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: addresses of pages are no news."""


class ThreadedServer(ThreadingMixIn, WSGIServer):
    daemon_threads = False
    block_on_close = True


@pytest.fixture
def portal(committed: None) -> Iterator[str]:
    """The portal over the committed cast; `{}` stands for the provider, as in portal.format("acme")."""
    cache.clear()
    server = make_server(
        "127.0.0.1", 0, get_wsgi_application(), server_class=ThreadedServer, handler_class=QuietHandler
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{{}}.localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
