"""The page behind a digest's link: who may release what by it, and that opening it changes nothing."""

from __future__ import annotations

import io
import logging
from datetime import timedelta

import pytest
import time_machine
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.people.models import Mailbox, User
from quarantine.models import Category, Event, Recipient, State
from quarantine.platform.models import DeliveryJob
from quarantine.release import delete
from reports import digests, links
from reports.models import DigestLink, RememberedBrowser
from tests.cast import PASSWORD
from tests.reports.held import CODE, HOUR, LINK, get_mailbox, hold, read_text

pytestmark = pytest.mark.usefixtures("acme")


@pytest.fixture(autouse=True)
def no_guesses_yet(acme):
    cache.clear()


def open_browser(host: str = "acme.localhost", email: str = "", **options) -> Client:
    browser = Client(headers={"host": host}, **options)
    if email:
        browser.force_login(User.objects.get(email=email))
    return browser


def report(*items: Recipient) -> list[tuple[str, str]]:
    """Make the daily report of the items' mailbox; path and code of each link, the newest item first."""
    mailbox = items[0].mailbox
    Mailbox.objects.exclude(pk=mailbox.pk).update(next_digest_at=timezone.now() + HOUR)
    Mailbox.objects.filter(pk=mailbox.pk).update(
        next_digest_at=timezone.now(), created_at=timezone.now() - timedelta(days=1)
    )
    assert digests.send_due() == 1
    text = read_text(mailbox.digests.latest("pk"))
    return list(zip([f"/d/{token}/" for token in LINK.findall(text)], CODE.findall(text), strict=True))


@pytest.fixture
def item():
    return hold(
        get_mailbox(), at=timezone.now() - HOUR, subject="Cheap watches", header_from="Shop <shop@watches.test>"
    )


@pytest.fixture
def link(item) -> str:
    return report(item)[0][0]


@pytest.fixture
def code(link, item) -> str:
    return CODE.findall(read_text(item.mailbox.digests.get()))[0]


def get_state(item: Recipient) -> str:
    item.refresh_from_db()
    return item.state


def test_the_page_shows_the_message_in_the_providers_brand(link, item):
    page = open_browser().get(link)
    text = page.content.decode()
    assert page.status_code == 200
    for words in ("Acme IT", "Cheap watches", "Shop", "shop@watches.test", "bob@alpha.test", 'name="code"'):
        assert words in text
    assert item.received_at.strftime("%H:%M") in text


def test_the_page_is_kept_by_nobody_and_tells_its_address_to_nobody(link):
    browser = open_browser(enforce_csrf_checks=True)
    answers = [browser.get(link), browser.head(link), browser.post(link), browser.options(link), browser.get("/d/x/")]
    assert [answer.status_code for answer in answers] == [200, 200, 403, 405, 404]
    for answer in answers:
        assert answer["Referrer-Policy"] == "no-referrer"
        assert answer["Cache-Control"] == "no-store"
        assert answer["X-Robots-Tag"] == "noindex"


@pytest.mark.parametrize("verb", ["get", "head", "options", "put", "delete", "patch"])
def test_opening_changes_nothing(verb, link, item):
    known = open_browser(email="bob@alpha.test")
    for browser in (open_browser(), known):
        for _ in range(50):
            getattr(browser, verb)(link, headers={"Purpose": "prefetch"})
    assert get_state(item) == State.QUARANTINED
    assert DigestLink.objects.get().used_at is None
    assert not DeliveryJob.objects.filter(recipient_id=item.pk).exists()


def test_an_unknown_browser_releases_with_the_code_and_is_remembered(link, item, code):
    other = hold(item.mailbox, at=timezone.now() - HOUR)
    browser = open_browser()
    answer = browser.post(link, {"code": code})
    assert (answer.status_code, answer["Location"]) == (303, f"{link}?done")
    assert get_state(item) == State.RELEASING
    assert get_state(other) == State.QUARANTINED
    assert item.changed_by == "bob@alpha.test"
    assert DeliveryJob.objects.get(recipient_id=item.pk).lane == "release"
    [cookie] = [cookie for name, cookie in browser.cookies.items() if name.startswith("browser-")]
    assert (cookie["httponly"], cookie["samesite"], cookie["domain"], cookie["path"]) == (True, "Lax", "", "/d/")
    assert (cookie["max-age"], cookie["secure"]) == (180 * 86400, "")
    assert cookie.value.encode() not in bytes(RememberedBrowser.objects.get().secret_hash)


def test_the_cookie_is_secure_on_https(link, code):
    browser = open_browser()
    browser.post(link, {"code": code}, secure=True)
    [cookie] = [cookie for name, cookie in browser.cookies.items() if name.startswith("browser-")]
    assert cookie["secure"] is True


def test_a_remembered_browser_releases_by_one_click(item):
    other = hold(item.mailbox, at=timezone.now() - 2 * HOUR)
    (first, code), (second, _) = report(item, other)
    browser = open_browser()
    browser.post(first, {"code": code})
    assert 'name="code"' not in browser.get(second).content.decode()
    browser.post(second)
    assert get_state(other) == State.RELEASING


def test_a_shared_device_is_not_remembered(link, item, code):
    browser = open_browser()
    browser.post(link, {"code": code, "shared": "1"})
    assert get_state(item) == State.RELEASING
    assert not RememberedBrowser.objects.exists()
    assert not [name for name in browser.cookies if name.startswith("browser-")]


def test_a_browser_remembered_for_one_mailbox_is_unknown_to_another(link, item, code):
    carols = hold(get_mailbox("carol@alpha.test"), at=timezone.now() - HOUR)
    [(hers, _)] = report(carols)
    browser = open_browser()
    browser.post(link, {"code": code})
    secret = next(cookie.value for name, cookie in browser.cookies.items() if name.startswith("browser-"))
    browser.cookies[f"browser-{carols.mailbox_id}"] = secret
    assert 'name="code"' in browser.get(hers).content.decode()
    browser.post(hers)
    assert get_state(carols) == State.QUARANTINED


def change_password() -> None:
    new = "another horse 42 battery"
    data = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    assert open_browser(email="bob@alpha.test").post("/account/password/", data).status_code == 302


def give_mailbox_away() -> None:
    Mailbox.objects.filter(address="bob@alpha.test").update(owner=User.objects.get(email="carol@alpha.test"))


def close_account() -> None:
    User.objects.filter(email="bob@alpha.test").update(is_active=False)


def press_the_button() -> None:
    browser = open_browser(email="bob@alpha.test")
    assert "1 browser showed a code" in browser.get("/account/").content.decode()
    browser.post("/account/forget-browsers/")
    assert "No browser may release" in browser.get("/account/").content.decode()


@pytest.mark.parametrize("revoke", [change_password, give_mailbox_away, close_account, press_the_button])
def test_a_browser_is_forgotten_when_the_owner_says_so_or_is_another(link, item, code, revoke):
    others = links.remember_browser(get_mailbox("carol@alpha.test"))
    browser = open_browser()
    browser.post(link, {"code": code})
    Recipient.objects.update(state=State.QUARANTINED)
    assert 'name="code"' not in browser.get(link).content.decode()
    revoke()
    assert 'name="code"' in browser.get(link).content.decode()
    browser.post(link)
    assert get_state(item) == State.QUARANTINED
    assert links.find_browser(others)


def test_signing_in_forgets_no_browser(link, item):
    kept = links.remember_browser(item.mailbox)
    open_browser().post("/sign-in/", {"login": "bob@alpha.test", "password": PASSWORD})
    User.objects.get(email="bob@alpha.test").save()
    assert links.find_browser(kept)


def test_a_browser_is_forgotten_in_time(link, item, code):
    browser = open_browser()
    browser.post(link, {"code": code})
    RememberedBrowser.objects.update(expires_at=timezone.now())
    Recipient.objects.update(state=State.QUARANTINED)
    browser.post(link)
    assert get_state(item) == State.QUARANTINED


@pytest.mark.parametrize(
    ("email", "released"),
    [
        ("bob@alpha.test", True),
        ("dora@alpha.test", True),
        ("alice@acme.test", True),
        ("carol@alpha.test", False),
        ("bea@beta.test", False),
    ],
)
def test_who_is_signed_in_and_may_see_the_item_needs_no_code(email, released, link, item):
    browser = open_browser(email=email)
    assert ('name="code"' not in browser.get(link).content.decode()) is released
    browser.post(link)
    assert (get_state(item) == State.RELEASING) is released
    assert item.changed_by == (email if released else "")


def test_without_a_csrf_token_nothing_is_released(link, item, code):
    browser = open_browser(email="bob@alpha.test", enforce_csrf_checks=True)
    assert browser.post(link).status_code == 403
    assert open_browser(enforce_csrf_checks=True).post(link, {"code": code}).status_code == 403
    assert get_state(item) == State.QUARANTINED


def test_releasing_twice_says_when_it_was_and_does_nothing_twice(link, item, code):
    browser = open_browser()
    browser.post(link, {"code": code})
    with time_machine.travel(timezone.now() + HOUR):
        for _ in range(3):
            answer = browser.post(link, {"code": code}, follow=True)
    at = Event.objects.get(recipient=item, kind="releasing").at
    assert f"Already released at {at:%H:%M}" in answer.content.decode()
    assert "<form" not in answer.content.decode()
    assert DeliveryJob.objects.filter(recipient_id=item.pk).count() == 1


def test_an_item_released_in_the_portal_is_shown_as_released(link, item):
    Recipient.objects.filter(pk=item.pk).update(state=State.RELEASED, changed_at=timezone.now())
    assert "Already released at" in open_browser().get(link).content.decode()


def test_an_item_that_the_customers_server_refused_can_be_tried_again(link, item):
    Recipient.objects.filter(pk=item.pk).update(state=State.HELD)
    browser = open_browser(email="bob@alpha.test")
    assert "your mail server refused it" in browser.get(link).content.decode()
    browser.post(link)
    assert get_state(item) == State.RELEASING


def test_five_wrong_codes_and_only_signing_in_helps(link, item, code):
    wrong = "000000" if code != "000 000" else "111111"
    browser = open_browser()
    pages = [browser.post(link, {"code": wrong}).content.decode() for _ in range(5)]
    assert all("not the code" in page for page in pages[:4])
    assert "Too many wrong codes" in pages[4]
    assert "Too many wrong codes" in browser.post(link, {"code": code}).content.decode()
    assert get_state(item) == State.QUARANTINED
    open_browser(email="bob@alpha.test").post(link)
    assert get_state(item) == State.RELEASING


@pytest.mark.parametrize("typed", ["", "12345", "abcdef", "1234567", "test test"])
def test_what_is_no_code_costs_no_try(typed, link, item, code):
    browser = open_browser()
    for _ in range(30):
        assert "six digits" in browser.post(link, {"code": typed}).content.decode()
    browser.post(link, {"code": code})
    assert get_state(item) == State.RELEASING


def test_the_code_of_one_item_does_not_open_another(item):
    other = hold(item.mailbox, at=timezone.now() - 2 * HOUR)
    (_, code), (second, own) = report(item, other)
    if code != own:
        open_browser().post(second, {"code": code})
        assert get_state(other) == State.QUARANTINED


@pytest.mark.parametrize(
    "rewrite",
    [
        str.upper,
        lambda path: path.removesuffix("/"),
        lambda path: path + ">",
        lambda path: path.removesuffix("/") + ".",
        lambda path: path + "?utm_source=mail&amp;x=1",
    ],
)
def test_a_link_survives_what_mail_programs_do_to_it(rewrite, link, item):
    page = open_browser().get(rewrite(link), follow=True)
    assert "Cheap watches" in page.content.decode()


def test_a_bad_token_is_a_page_without_detail(link):
    token = link.split("/")[2]
    bodies = set()
    flipped = ("a" if token[0] != "a" else "b") + token[1:]
    for bad in (flipped, token[:-1], token + "aa", "x", "%00", "ä", "a" * 5000):
        page = open_browser().get(f"/d/{bad}/")
        assert page.status_code == 404
        bodies.add(page.content)
    assert len(bodies) == 1
    assert b"Cheap" not in bodies.pop()


def test_a_link_is_nothing_at_another_providers_hostname(link, item, code):
    for host in ("globex.localhost", "unknown.localhost"):
        page = open_browser(host).get(link)
        assert page.status_code == 404
        assert b"Cheap" not in page.content
        assert open_browser(host).post(link, {"code": code}).status_code == 404
    with schema_context("sp_acme"):
        assert get_state(item) == State.QUARANTINED


def test_the_same_row_copied_to_another_provider_is_no_link_there(link):
    stolen = DigestLink.objects.get().token_hash
    with schema_context("sp_globex"):
        gus = hold(get_mailbox("gus@gamma.test"), at=timezone.now() - HOUR)
        report(gus)
        DigestLink.objects.update(token_hash=stolen)
    assert open_browser("globex.localhost").get(link).status_code == 404


def test_a_link_ends_with_its_item(link, item, code):
    DigestLink.objects.update(expires_at=timezone.now())
    assert open_browser().get(link).status_code == 410
    assert open_browser().post(link, {"code": code}).status_code == 410
    DigestLink.objects.update(expires_at=timezone.now() + HOUR)
    delete(Recipient.objects.filter(pk=item.pk), by="bob@alpha.test")
    page = open_browser().get(link)
    assert page.status_code == 410
    assert b"Cheap" not in page.content
    assert open_browser(email="bob@alpha.test").post(link).status_code == 410
    assert get_state(item) == State.DELETED


def test_a_link_dies_with_its_mailbox(link, item):
    item.mailbox.delete()
    assert open_browser(email="alice@acme.test").get(link).status_code == 404


def test_what_turned_out_to_be_a_virus_is_not_released(link, item, code):
    Recipient.objects.filter(pk=item.pk).update(category=Category.VIRUS)
    for browser in (open_browser(), open_browser(email="bob@alpha.test")):
        assert "dangerous" in browser.post(link, {"code": code}).content.decode()
    assert get_state(item) == State.QUARANTINED


def test_guessing_is_slowed_by_address_and_locks_out_nobody_known(link, item, code):
    known, stranger = open_browser(email="bob@alpha.test"), open_browser()
    remembered = open_browser()
    remembered.cookies[f"browser-{item.mailbox_id}"] = links.remember_browser(item.mailbox)
    answers = [stranger.get(f"/d/{links.make_secret().token}/").status_code for _ in range(25)]
    assert answers == [404] * 20 + [429] * 5
    assert stranger.get(link).status_code == 429
    stranger.cookies["browser-1"] = "invented"
    assert stranger.get(link).status_code == 429
    assert known.get(link).status_code == 200
    assert remembered.get(link).status_code == 200
    elsewhere = Client(headers={"host": "acme.localhost"}, REMOTE_ADDR="192.0.2.9")
    assert elsewhere.get(link).status_code == 200


def test_old_links_and_browsers_are_removed(link, item):
    links.remember_browser(item.mailbox)
    assert links.expire_links() == 0
    DigestLink.objects.update(expires_at=timezone.now())
    RememberedBrowser.objects.update(expires_at=timezone.now())
    assert links.expire_links() == 0
    assert not RememberedBrowser.objects.exists()
    DigestLink.objects.update(expires_at=timezone.now() - timedelta(weeks=9))
    assert links.expire_links() == 1


def test_who_reopens_old_reports_is_no_guesser(link, item, code):
    DigestLink.objects.update(expires_at=timezone.now() - timedelta(weeks=2))
    links.expire_links()
    office = open_browser()
    assert [office.get(link).status_code for _ in range(25)] == [410] * 25
    assert office.post(link, {"code": code}).status_code == 410
    assert get_state(item) == State.QUARANTINED


def test_no_token_and_no_code_is_logged(link, item, code):
    [console] = [handler for handler in logging.getLogger().handlers if handler.get_name() == "console"]
    stream = console.setStream(written := io.StringIO())
    try:
        browser = open_browser(enforce_csrf_checks=True)
        browser.post(link, {"code": code})
        open_browser().post(link, {"code": "000000"})
        open_browser().post(link, {"code": code})
        open_browser().get(link + "x")
        open_browser("globex.localhost").get(link)
    finally:
        console.setStream(stream)
    logged = written.getvalue()
    assert "digest_link_used schema=sp_acme" in logged
    assert "Forbidden" in logged
    assert link.split("/")[2] not in logged
    assert code not in logged
    assert code.replace(" ", "") not in logged


def test_signing_in_afterwards_works(link, item):
    browser = open_browser()
    assert "/sign-in/" not in browser.get(link).content.decode().split("<form")[0]
    browser.post("/sign-in/", {"login": "bob@alpha.test", "password": PASSWORD})
    browser.post(link)
    assert get_state(item) == State.RELEASING
