"""Signing in: at one's own provider and nowhere else, and nothing to learn from being refused."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.test import RequestFactory
from django_tenants.utils import schema_context

from portal.tenants.people.models import User
from tests.cast import PASSWORD
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text

pytestmark = pytest.mark.django_db
BOB = {"login": "bob@alpha.test", "password": PASSWORD}
WRONG = "That email address and password do not match an account here."


@pytest.fixture(autouse=True)
def _no_memory_of_failures(db):
    cache.clear()


def test_signing_in_leads_to_the_quarantine(acme):
    keep("bob@alpha.test", subject="Cheap watches")
    client = browse()
    response = client.post("/sign-in/", BOB, follow=True)
    assert response.redirect_chain == [("/", 302)]
    assert "Cheap watches" in get_text(response)


def test_an_address_in_any_case_is_the_same(acme):
    assert browse().post("/sign-in/", BOB | {"login": "BOB@Alpha.TEST"}).status_code == 302


def test_wrong_password_and_unknown_address_are_told_the_same():
    one = browse().post("/sign-in/", BOB | {"password": "wrong"})
    other = browse().post("/sign-in/", BOB | {"login": "nobody@alpha.test"})
    assert WRONG in get_text(one)
    assert WRONG in get_text(other)
    assert one.status_code == other.status_code


def test_a_user_of_acme_is_nobody_at_globex():
    client = browse(at="globex")
    assert WRONG in get_text(client.post("/sign-in/", BOB))
    assert client.get("/").status_code == 302


def test_a_session_of_acme_is_worth_nothing_at_globex(acme):
    """Y05: also where a user of the same id lives there, and under other spellings of the hostname."""
    client = browse("bob")
    cookie = client.cookies["session"].value
    for host in ("globex.localhost", "GLOBEX.localhost", "www.globex.localhost", "globex.localhost:8000"):
        other = browse()
        other.cookies["session"] = cookie
        assert other.get("/", HTTP_HOST=host).status_code == 302
    assert client.get("/").status_code == 200


def test_the_hostname_is_taken_from_nowhere_else(acme):
    client = browse("bob")
    for header in ("HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED"):
        assert "Acme IT" in get_text(client.get("/", **{header: "globex.localhost"}))


def test_cookies_are_for_the_one_hostname():
    """Y06."""
    response = browse().post("/sign-in/", BOB)
    session = response.cookies["session"]
    assert session["domain"] == ""
    assert session["httponly"] is True
    assert session["samesite"] == "Lax"


def test_the_session_changes_at_sign_in():
    client = browse()
    client.cookies["session"] = "a" * 32
    client.post("/sign-in/", BOB)
    assert client.cookies["session"].value != "a" * 32


@pytest.mark.parametrize(
    "target",
    ["//evil.test", "/\\evil.test", "https:evil.test", "https://evil.test/", "%2f%2fevil.test", "http:///evil.test"],
)
def test_next_stays_on_the_site(target):
    response = browse().post("/sign-in/", BOB | {"next": target})
    assert response.status_code == 302
    assert not response["Location"].startswith(("//", "/\\", "http"))


def test_next_leads_where_one_wanted_to_go(acme):
    client = browse()
    wanted = client.get("/senders/?q=x")
    assert wanted["Location"] == "/sign-in/?next=/senders/%3Fq%3Dx"
    assert 'value="/senders/?q=x"' in get_text(client.get(wanted["Location"]))
    assert client.post("/sign-in/", BOB | {"next": "/senders/?q=x"})["Location"] == "/senders/?q=x"


def test_after_five_failures_even_the_right_password_waits():
    for _ in range(5):
        browse().post("/sign-in/", BOB | {"password": "wrong"})
    response = browse().post("/sign-in/", BOB)
    assert response.status_code == 200
    assert "Too many failed attempts" in get_text(response)


def test_one_accounts_failures_do_not_lock_out_another():
    for _ in range(6):
        browse().post("/sign-in/", BOB | {"password": "wrong"})
    assert browse().post("/sign-in/", BOB | {"login": "carol@alpha.test"}).status_code == 302


def test_a_stranger_elsewhere_locks_nobody_out():
    for _ in range(6):
        browse().post("/sign-in/", BOB | {"password": "wrong"}, REMOTE_ADDR="198.51.100.7")
    assert browse().post("/sign-in/", BOB, REMOTE_ADDR="192.0.2.1").status_code == 302


def test_another_spelling_of_the_hostname_does_not_count_anew():
    for host in ("acme.localhost", "ACME.localhost", "acme.localhost:8000", "acme.localhost.", "www.acme.localhost"):
        browse().post("/sign-in/", BOB | {"password": "wrong"}, HTTP_HOST=host)
    assert "Too many failed attempts" in get_text(browse().post("/sign-in/", BOB))


def test_signing_out_takes_a_post(acme):
    client = browse("bob")
    client.get("/sign-out/")
    assert client.get("/").status_code == 200
    assert client.post("/sign-out/")["Location"] == "/sign-in/"
    assert client.get("/").status_code == 302


def test_nobody_signs_up_or_resets(acme):
    for path in ("/sign-up/", "/accounts/signup/", "/signup/", "/accounts/password/reset/", "/admin/"):
        assert browse().get(path).status_code == 404


def test_the_password_can_be_changed(acme):
    client = browse("bob")
    new = "another horse 42 battery"
    data = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    assert client.post("/account/password/", data)["Location"] == "/account/"
    assert User.objects.get(email="bob@alpha.test").check_password(new)
    assert client.get("/").status_code == 200


def test_a_weak_or_unproved_new_password_is_refused(acme):
    client = browse("bob")
    for old, new in ((PASSWORD, "short"), ("wrong", "another horse 42 battery")):
        client.post("/account/password/", {"oldpassword": old, "password1": new, "password2": new})
    assert User.objects.get(email="bob@alpha.test").check_password(PASSWORD)


def test_every_change_needs_the_forms_token(acme):
    client = browse("alice", enforce_csrf_checks=True)
    for path in ("/act/", "/report/", "/senders/", "/settings/", "/sign-in/", "/sign-out/", "/account/password/"):
        response = client.post(path, {"id": "1"})
        assert response.status_code == 403, path
        assert "Nothing was changed" in get_text(response)
        assert "Acme IT" in get_text(response)


def test_a_foreign_cookie_at_no_providers_hostname_harms_nothing(db):
    client = browse("bob")
    assert client.get("/nowhere", HTTP_HOST="127.0.0.1").status_code == 404


def test_a_password_in_the_address_signs_nobody_in():
    """Y20."""
    client = browse()
    client.get("/sign-in/", BOB)
    assert client.get("/").status_code == 302


def test_client_addresses_are_not_believed_without_a_proxy_of_ours(settings):
    from portal.web.accounts import AccountAdapter  # noqa: PLC0415

    request = RequestFactory().get("/", HTTP_X_FORWARDED_FOR="203.0.113.9", REMOTE_ADDR="192.0.2.1")
    assert AccountAdapter().get_client_ip(request) == "192.0.2.1"
    settings.ALLAUTH_TRUSTED_PROXY_COUNT = 1
    assert AccountAdapter().get_client_ip(request) == "203.0.113.9"


def test_providers_count_failures_apart():
    with schema_context("sp_globex"):
        User.objects.create_user("bob@alpha.test", PASSWORD)
    for _ in range(6):
        browse().post("/sign-in/", BOB | {"password": "wrong"})
    assert browse(at="globex").post("/sign-in/", BOB).status_code == 302
