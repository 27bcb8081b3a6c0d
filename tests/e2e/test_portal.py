"""The portal in a real browser: by mouse, by keyboard, without scripts, and with mail that means harm."""

from __future__ import annotations

import pytest
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from quarantine.models import Message, Recipient, State
from quarantine.platform.models import HourlyCount
from tests.cast import PASSWORD
from tests.kept_mail import add_recipient, keep

pytestmark = pytest.mark.e2e

ATTACK = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@pytest.fixture
def mails(portal: str) -> list[Message]:
    with schema_context("sp_acme"):
        return [keep("bob@alpha.test", subject=f"Offer {number}") for number in range(8)]


def list_states() -> list[str]:
    with schema_context("sp_acme"):
        return sorted(Recipient.objects.values_list("state", flat=True))


def watch(page) -> list[str]:
    """What the browser complains about: blocked content, failed scripts, dialogs, requests to elsewhere."""
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if ".localhost:" in request.url else heard.append(request.url))
    return heard


def test_five_are_released_in_one_action(portal, mails, browser, sign_in):
    page = browser.new_page()
    heard = watch(page)
    sign_in(page, portal.format("acme"), "bob@alpha.test", PASSWORD)
    for number in range(5):
        page.get_by_role("checkbox", name=f"“Offer {number}”").check()
    assert page.get_by_text("5 chosen").is_visible()
    page.get_by_role("button", name="Release").click()

    page.get_by_text("5 messages are being released.").wait_for()
    assert page.locator("tbody tr").count() == 3
    assert page.evaluate("document.activeElement.id") == "act-release"
    assert list_states() == [State.QUARANTINED] * 3 + [State.RELEASING] * 5
    assert heard == []


def test_deleting_asks_first_and_can_be_left(portal, mails, browser, sign_in):
    page = browser.new_page()
    heard = watch(page)
    sign_in(page, portal.format("acme"), "bob@alpha.test", PASSWORD)
    page.get_by_label("All on this page").check()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("heading", name="Delete 8 messages?").wait_for()
    page.get_by_role("link", name="Keep").click()
    assert not page.locator("#dialog").is_visible()
    assert set(list_states()) == {State.QUARANTINED}

    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm-delete").click()
    page.get_by_text("8 messages deleted.").wait_for()
    page.get_by_text("Nothing is in quarantine").wait_for()
    assert set(list_states()) == {State.DELETED}
    assert heard == []


def test_searching_narrows_the_list_while_typing(portal, mails, browser, sign_in):
    page = browser.new_page()
    sign_in(page, portal.format("acme"), "bob@alpha.test", PASSWORD)
    page.get_by_label("Search sender, subject or recipient").press_sequentially("Offer 7")
    page.get_by_text("1 message", exact=True).wait_for()
    assert page.locator("tbody tr").count() == 1
    assert page.evaluate("document.activeElement.id") == "q"
    assert "q=Offer" in page.url


def test_everything_works_by_keyboard(portal, mails, browser, sign_in):
    page = browser.new_page()
    sign_in(page, portal.format("acme"), "bob@alpha.test", PASSWORD)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.get_by_label("All on this page").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Release").focus()
    page.keyboard.press("Enter")
    page.get_by_text("8 messages are being released.").wait_for()
    assert set(list_states()) == {State.RELEASING}


def test_everything_works_without_scripts(portal, mails, browser, sign_in):
    page = browser.new_context(java_script_enabled=False).new_page()
    sign_in(page, portal.format("acme"), "bob@alpha.test", PASSWORD)
    page.get_by_role("checkbox", name="“Offer 0”").check()
    page.get_by_role("button", name="Release").click()
    assert page.get_by_text("1 message is being released.").is_visible()
    page.get_by_label("All on this page").check()
    page.get_by_role("button", name="Delete").click()
    assert page.get_by_role("heading", name="Delete 7 messages?").is_visible()
    page.locator("#confirm-delete").click()
    assert page.get_by_text("7 messages deleted.").is_visible()
    assert list_states() == [State.DELETED] * 7 + [State.RELEASING]


def test_a_released_message_is_seen_to_arrive_without_reloading(portal, mails, browser, sign_in):
    with schema_context("sp_acme"):
        Recipient.objects.update(state=State.RELEASING)
    page = browser.new_page()
    sign_in(page, portal.format("acme"), "bob@alpha.test", PASSWORD)
    page.get_by_role("link", name="Released").click()
    assert page.get_by_text("Being released").count() == 8
    with schema_context("sp_acme"):
        Recipient.objects.update(state=State.RELEASED, reply="250 2.0.0 OK queued as 4711")
    page.get_by_text("250 2.0.0 OK queued as 4711").first.wait_for()


def test_the_notice_stays_while_the_page_looks_again(portal, mails, browser, sign_in):
    page = browser.new_page()
    sign_in(page, portal.format("acme"), "bob@alpha.test", PASSWORD)
    page.get_by_role("link", name="All mail").click()
    page.get_by_role("checkbox", name="“Offer 3”").check()
    page.get_by_role("button", name="Release").click()
    page.get_by_text("1 message is being released.").wait_for()
    page.evaluate("document.activeElement.blur()")
    with schema_context("sp_acme"):
        Recipient.objects.filter(state=State.RELEASING).update(state=State.RELEASED, reply="250 2.0.0 OK as 4711")
    page.get_by_text("250 2.0.0 OK as 4711").first.wait_for()
    assert page.get_by_text("1 message is being released.").is_visible()
    page.locator("[name=q]").first.fill("Offer")
    page.get_by_text("1 message is being released.").wait_for(state="hidden")


HARMFUL = f"""<html><head><style>@import url(http://canary.test/a);</style><meta http-equiv=refresh content="0;url=http://canary.test/b">
<link rel=stylesheet href=http://canary.test/c><link rel=prefetch href=http://canary.test/d></head>
<body background=http://canary.test/e onload=alert(1)><img src=http://canary.test/f srcset="http://canary.test/g 2x">
<p style="background:url(http://canary.test/h)">Hello</p><svg><animate onbegin=alert(2) attributeName=x></svg>
<video poster=http://canary.test/i></video><iframe src=http://canary.test/j></iframe><script>alert(3)</script>
<form action=http://canary.test/k><input></form><a href="javascript:alert(4)" onclick=alert(5)>click</a>
<a href="http://canary.test/l">here</a><math><mtext>
<table><mglyph><style><img src=x onerror=alert(6)></style></table></mtext>
</math><img src="cid:x"><object data=http://canary.test/m></object>{ATTACK}</body></html>"""


def test_harmful_mail_does_nothing_in_any_page(portal, browser, sign_in):
    """X20, X50, X51: no script, no dialog, no request to elsewhere, nothing that the policy had to block."""
    raw = (
        f"From: {ATTACK} <x@far.test>\r\nSubject: {ATTACK}\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        f"{HARMFUL}\r\n--b\r\nContent-Type: application/x; name='{ATTACK}'\r\n"
        "Content-Disposition: attachment; filename*=utf-8''%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert(9)%3E\r\n\r\n"
        "x\r\n--b--\r\n"
    ).encode()
    with schema_context("sp_acme"):
        finding = {"check": ATTACK, "points": 1.0, "text": ATTACK}
        message = keep(
            "bob@alpha.test", raw=raw, subject=ATTACK, sender=f"{ATTACK}@far.test", findings=[finding], reply=ATTACK
        )
        Message.objects.filter(pk=message.pk).update(
            helo=ATTACK, ptr_name=ATTACK, header_from=ATTACK, message_id=ATTACK
        )
        pk = message.recipients.get().pk
    page = browser.new_page()
    heard = watch(page)
    base = portal.format("acme")
    sign_in(page, base, "alice@acme.test", PASSWORD)
    for path in (
        "/",
        "/?show=all",
        "/trace/?q=bob@alpha.test",
        f"/trace/{pk}/",
        f"/m/{pk}/",
        f"/m/{pk}/?look=headers",
        f"/m/{pk}/?look=html",
    ):
        page.goto(base + path)
        page.wait_for_load_state("networkidle")
    frame = page.frames[1]
    assert "Hello" in frame.locator("body").inner_text()
    frame.get_by_text("here", exact=True).click()
    page.wait_for_timeout(200)
    assert frame.url == f"{base}/m/{pk}/html/"
    assert heard == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(portal, mails, browser, sign_in, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    base = portal.format("acme")
    sign_in(page, base, "alice@acme.test", PASSWORD)
    pages = [
        "/",
        "/?show=all",
        "/senders/",
        "/mailboxes/",
        "/domains/",
        "/reverse-dns/",
        "/settings/",
        "/trace/",
        "/activity/",
        "/account/",
        "/help/reverse-dns",
    ]
    for path in [*pages, "/nowhere"]:
        page.goto(base + path)
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, path


def test_every_field_and_button_has_a_name(portal, mails, browser, sign_in):
    page = browser.new_page()
    base = portal.format("acme")
    sign_in(page, base, "alice@acme.test", PASSWORD)
    for path in (
        "/",
        "/senders/",
        "/mailboxes/",
        "/domains/",
        "/reverse-dns/",
        "/settings/",
        "/trace/",
        "/activity/",
        "/account/",
        "/account/password/",
        "/help/reverse-dns",
    ):
        page.goto(base + path)
        assert page.locator("h1").count() == 1, path
        assert page.get_by_role("main").count() == 1, path
        assert page.evaluate(NAMELESS) == [], path


NAMELESS = """() => [...document.querySelectorAll("input:not([type=hidden]), select, button, a")]
  .filter((one) => !(one.labels && one.labels.length) && !one.textContent.trim() && !one.getAttribute("aria-label"))
  .map((one) => one.outerHTML)"""


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_what_a_search_found_is_cut_off(portal, browser, sign_in, width):
    """Whom it was for is what people look for: long addresses are broken, never shortened."""
    address = "the-long-name-of-a-department@alpha.test"
    with schema_context("sp_acme"):
        message = keep(address, sender="a-newsletter-of-some-length@mailings.far.test", subject="A long subject " * 9)
        add_recipient(message, "bob@alpha.test", state=State.DEFERRED)
    page = browser.new_page(viewport={"width": width, "height": 844})
    base = portal.format("acme")
    sign_in(page, base, "dora@alpha.test", PASSWORD)
    page.goto(f"{base}/trace/?q={message.trace_id}")
    assert page.get_by_role("cell", name=address).count() == 1
    cut = "found => found.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    if width > 752:  # on a phone a subject ends after two lines
        assert page.locator(".found td, .found .line").evaluate_all(cut) == []
    assert page.locator(".found .to, .found .from, .found .kind").evaluate_all(cut) == []


def test_hours_without_mail_take_no_room_on_a_phone(portal, browser, sign_in):
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    domain = MailDomain.objects.get(name="alpha.test").pk
    HourlyCount.objects.create(
        hour=hour, schema="sp_acme", domain_id=domain, kind="held", cause="", instance="gw", count=3
    )
    page = browser.new_page(viewport={"width": 390, "height": 844})
    base = portal.format("acme")
    sign_in(page, base, "dora@alpha.test", PASSWORD)
    page.goto(f"{base}/activity/")
    rows = page.locator(".counts tbody tr")
    assert rows.count() == 25
    assert [row.inner_text().split("\n")[0] for row in rows.all() if row.is_visible()] == [
        "Together",
        f"{hour:%a %H:%M}",
    ]
