"""Reverse DNS in a real browser: an admin lets a refused server in, and its own admin checks the address."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django_tenants.utils import schema_context

from filtering.policy.ptr_exceptions import grant
from portal.settings.environment import Address
from portal.tenants.models import MailDomain
from portal.tenants.people.models import PtrException
from quarantine.models import Message, State
from tests.cast import PASSWORD
from tests.dns_server import DnsServer
from tests.e2e.test_portal import watch
from tests.kept_mail import keep

pytestmark = pytest.mark.e2e

IP = "192.0.2.25"
WIDTHS = [390, 1280]
LONG_NAME = f"{'x' * 63}.{'y' * 63}.{'z' * 63}.far.test"


@pytest.fixture
def refused(portal: str) -> Message:
    with schema_context("sp_acme"):
        message = keep("bob@alpha.test", state=State.REFUSED, subject="")
        Message.objects.filter(pk=message.pk).update(ptr_status="none")
        return message


@pytest.mark.parametrize("width", WIDTHS)
def test_an_admin_lets_a_refused_server_in_and_ends_it(portal, refused, browser, sign_in, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    heard = watch(page)
    base = portal.format("acme")
    sign_in(page, base, "dora@alpha.test", PASSWORD)
    with schema_context("sp_acme"):
        page.goto(f"{base}/m/{refused.recipients.get().pk}/")
    page.get_by_role("link", name="Let this server in for a time").click()
    assert page.get_by_label("Sending server").input_value() == IP
    page.get_by_label("For how long").select_option("1 day")
    page.get_by_label("Why").fill("their ISP is slow")
    page.get_by_role("button", name="Let it in").click()
    page.get_by_text(f"{IP} is let in from now on").wait_for()
    row = page.get_by_role("row").filter(has_text=IP)
    assert "their ISP is slow" in row.inner_text()
    assert "alpha.test" in row.inner_text()
    row.get_by_role("button", name=f"End the exception for {IP}").click()
    page.get_by_text(f"The exception for {IP} is ended.").wait_for()
    page.get_by_role("link", name="Past").click()
    assert "by dora@alpha.test" in page.get_by_role("row").filter(has_text=IP).inner_text()
    with schema_context("sp_acme"):
        assert PtrException.objects.get().ended_by == "dora@alpha.test"
    assert heard == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(portal, browser, sign_in, settings, width):
    with schema_context("sp_acme"):
        domain = MailDomain.objects.get(name="alpha.test").pk
        grant("2001:db8:1234:5678:9abc:def0:1234:5678", domain_id=domain, days=90, reason="x" * 300, by="a" * 320)
        grant("2001:db8:1234::/48", domain_id=None, days=1, reason="moving " * 40, by="alice@acme.test")
    page = browser.new_page(viewport={"width": width, "height": 844})
    base = portal.format("acme")
    sign_in(page, base, "dora@alpha.test", PASSWORD)
    cache.clear()
    with DnsServer() as server:
        settings.RESOLVERS = (Address(*server.address),)
        server.answer_reverse(IP, f"{LONG_NAME}.")
        for path in ("/reverse-dns/", f"/help/reverse-dns?ip={IP}"):
            page.goto(base + path)
            assert measure(page) <= 0, path
        page.get_by_role("button", name="Check it now").click()
        page.locator("#seen").get_by_text("does not lead back").wait_for()
        assert measure(page) <= 0


def measure(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_refused_servers_admin_checks_the_address_without_scripts(portal, browser, settings):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    heard = watch(page)
    with DnsServer() as server:
        settings.RESOLVERS = (Address(*server.address),)
        server.add(IP, "mail.far.test")
        for host in ("acme", "nobody"):  # at a provider's hostname, and at none's
            page.goto(f"{portal.format(host)}/help/reverse-dns?ip=192.0.2.99")
            page.get_by_role("button", name="Check it now").click()
            page.get_by_text("has no name").wait_for()
            page.get_by_label("Address of the mail server").fill(f"[{IP}]")
            page.get_by_role("button", name="Check it now").click()
            page.get_by_text("leads back to the address").wait_for()
    assert heard == []
