"""A digest's link in a real browser: what a mail scanner does with it, and what its reader does."""

from __future__ import annotations

import pytest
from django_tenants.utils import schema_context
from playwright.sync_api import Browser, expect

from portal.tenants.people.models import User
from quarantine.models import Recipient, State
from reports import digests
from reports.models import Digest
from reports.schedule import request_digest
from tests.reports.held import CODE, LINK, get_mailbox, hold, read_text

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def printed(portal: str) -> list[tuple[str, str]]:
    """The addresses and codes of three items in a report for Bob."""
    with schema_context("sp_acme"):
        bob = get_mailbox()
        for subject in ("First", "Second", "Third"):
            hold(bob, subject=f"{subject} offer")
        request_digest(type(bob).objects.filter(pk=bob.pk), by=User.objects.get(email="bob@alpha.test"))
        digest = Digest.objects.get()
        digests.send_requested([digest.pk])
        digest.refresh_from_db()
        text = read_text(digest)
    base = portal.format("acme")
    return [(f"{base}/d/{token}/", code) for token, code in zip(LINK.findall(text), CODE.findall(text), strict=True)]


def list_states() -> list[str]:
    with schema_context("sp_acme"):
        held = Recipient.objects.exclude(message__kind="digest").order_by("-pk")
        return list(held.values_list("state", flat=True))


def test_a_scanner_that_opens_waits_and_clicks_releases_nothing(browser: Browser, printed):
    for address, _ in printed:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_timeout(2000)
        buttons = page.get_by_role("button")
        buttons.first.click()
        page.evaluate(
            "document.querySelectorAll('form').forEach(form => { form.noValidate = true; form.requestSubmit() })"
        )
        page.wait_for_load_state()
        expect(
            page.get_by_text("six digits printed beside this message in your report.", exact=False).first
        ).to_be_visible()
    assert list_states() == [State.QUARANTINED] * 3


def test_the_reader_types_the_code_once_and_clicks_from_then_on(browser: Browser, printed):
    (first, code), (second, _), _ = printed
    context = browser.new_context()
    page = context.new_page()
    referrers: list[str] = []
    page.on("request", lambda request: referrers.append(request.headers.get("referer", "")))
    page.goto(first)
    page.get_by_label("Code from your report").fill(code)
    page.get_by_role("button", name="Release to my mailbox").click()
    expect(page.get_by_text("released at")).to_be_visible()
    page.goto(second)
    expect(page.get_by_label("Code from your report")).to_have_count(0)
    page.get_by_role("button", name="Release to my mailbox").click()
    expect(page.get_by_text("released at")).to_be_visible()
    assert list_states() == [State.RELEASING, State.RELEASING, State.QUARANTINED]
    assert not [referrer for referrer in referrers if "/d/" in referrer]
    context.close()


def test_the_keyboard_is_enough(browser: Browser, printed):
    page = browser.new_page()
    page.goto(printed[0][0])
    page.get_by_label("Code from your report").focus()
    page.keyboard.type(printed[0][1])
    page.keyboard.press("Enter")
    expect(page.get_by_text("released at")).to_be_visible()


def test_who_is_signed_in_needs_one_click(browser: Browser, printed, sign_in, portal):
    page = browser.new_page()
    sign_in(page, portal.format("acme"), "bob@alpha.test", "correct horse battery")
    page.goto(printed[0][0])
    page.get_by_role("button", name="Release to my mailbox").click()
    expect(page.get_by_text("released at")).to_be_visible()
    assert list_states()[0] == State.RELEASING


def test_the_pages_fit_a_phone(browser: Browser, printed):
    context = browser.new_context(viewport={"width": 320, "height": 640})
    page = context.new_page()
    for address in (printed[0][0], printed[0][0][:-4] + "/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()
