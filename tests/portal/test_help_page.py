"""The help page for refused senders' admins, and its live check of an address."""

from __future__ import annotations

import re
import socket
import threading
from ipaddress import ip_address

import pytest
from django.core.cache import cache
from django.test import override_settings
from django_tenants.utils import schema_context

from portal.settings import base
from portal.settings.environment import Address
from portal.tenants.models import ServiceProvider
from portal.web import ptr_check
from portal.web.limits import WINDOW_SECONDS, Refusal
from tests.dns_server import DnsServer
from tests.portal.browsing import browse, get_text

pytestmark = pytest.mark.django_db

PATH = "/help/reverse-dns"
IP, NAME = "192.0.2.25", "mail.sender.test"
PLATFORM = "127.0.0.1"  # a hostname that is no provider's
ATTACK = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def fresh():
    cache.clear()
    with schema_context("public"):
        cache.clear()


@pytest.fixture
def dns(settings):
    with DnsServer() as server:
        settings.RESOLVERS = (Address(*server.address),)
        yield server


def check(typed: str = IP, *, at: str = "acme.localhost", client: str = "203.0.113.7", **headers):
    return browse().post(PATH, {"ip": typed}, HTTP_HOST=at, REMOTE_ADDR=client, **headers)


def get_seen(response) -> str:
    """What the check says, as a person reads it."""
    [seen] = re.findall(r'<div id="seen"[^>]*>(.*?)</div>', get_text(response), re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", "", seen).split())


# What is said


def test_a_name_that_leads_back_is_good(dns):
    dns.add(IP, NAME)
    response = check()
    assert response.status_code == 200
    assert get_seen(response).startswith(f"{IP} has the name {NAME}, and that name leads back to the address.")


def test_no_name_is_why_mail_may_be_refused(dns):
    """May be: a domain can choose to hold such mail, or to score it."""
    response = check()
    assert response.status_code == 200
    seen = get_seen(response)
    assert seen.startswith(f"{IP} has no name: there is no PTR record at 25.2.0.192.in-addr.arpa.")
    assert "That is why its mail may be refused." in seen


def test_a_name_that_leads_elsewhere_is_told_apart(dns):
    dns.answer_reverse(IP, f"{NAME}.")
    dns.answer(NAME, "A", "192.0.2.99")
    seen = get_seen(check())
    assert seen.startswith(f"{IP} has the name {NAME}, but that name does not lead back")
    assert "Give the name an A record" in seen


def test_a_name_that_is_none_is_told_apart(dns):
    dns.answer_reverse(IP, "localhost.")
    assert "localhost, is not a full host name" in get_seen(check())


@pytest.mark.parametrize("failure", ["SERVFAIL", "REFUSED", "GARBAGE"])
def test_who_could_not_be_asked_is_no_fault_of_the_sender(dns, failure):
    dns.everything = failure
    response = check()
    assert response.status_code == 200
    assert "could not be asked for just now" in get_seen(response)
    assert "Nobody’s mail is refused for that." in get_seen(response)


def test_an_ipv6_address_is_checked(dns):
    dns.add("2001:db8::25", NAME)
    assert get_seen(check("[IPv6:2001:db8::25]")).startswith(f"2001:db8::25 has the name {NAME}")


@pytest.mark.parametrize("pasted", [f" [{IP}]. ", f"<{IP}>", f"::ffff:{IP}"])
def test_addresses_are_taken_as_they_are_pasted(dns, pasted):
    dns.add(IP, NAME)
    assert f"{IP} has the name {NAME}" in get_seen(check(pasted))


@pytest.mark.parametrize(
    "inside",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "fe80::1%eth0", "::ffff:10.1.2.3", "224.0.0.1"],
)
def test_nothing_is_asked_about_what_is_not_public(dns, inside):
    response = check(inside)
    assert response.status_code == 200
    assert "is a private or reserved address" in get_seen(response)
    assert dns.asked == []


@pytest.mark.parametrize("typed", ["", "mail.sender.test", "http://127.0.0.1/", "192.0.2.0/24", ATTACK, "\0"])
def test_what_is_no_address_is_said_and_not_asked(dns, typed):
    response = check(typed)
    assert response.status_code == 400
    assert "That is not an address." in get_seen(response)
    assert ATTACK not in get_text(response)
    assert dns.asked == []


@pytest.mark.parametrize("name", [r"\<script\>alert\(1\)\</script\>.far.test.", r"a\000\255\"onload=x.far.test."])
def test_names_of_strangers_are_shown_as_text(dns, name):
    dns.answer_reverse(IP, name)
    response = check()
    assert response.status_code == 200
    text = get_text(response)
    assert "<script>alert" not in text
    assert '"onload' not in text
    assert "is not a full host name" in get_seen(response)


REFUSED = "Your mail was refused because its server has no reverse DNS"


def get_heading(response) -> str:
    [heading] = re.findall(r"<h1>(.*?)</h1>", get_text(response))
    assert ("<title>Mail refused: no reverse DNS" in get_text(response)) is (heading == REFUSED)
    return heading


def test_the_heading_says_what_the_check_found(dns):
    assert get_heading(browse().get(f"{PATH}?ip={IP}")) == REFUSED
    assert get_heading(check()) == REFUSED
    dns.add(IP, NAME)
    assert get_heading(check()) == "This mail server’s reverse DNS is as it should be"
    dns.answer(NAME, "A", "192.0.2.99")
    assert get_heading(check()) == "This mail server’s name does not lead back to it"
    dns.everything = "SERVFAIL"
    assert get_heading(check()) == "This mail server’s reverse DNS could not be looked up"
    assert get_heading(check("mail.sender.test")) == "This is not the address of a mail server"
    assert get_heading(check("10.1.2.3")) == "This is not the address that was refused"


@pytest.mark.parametrize("limit", ["MAX_OF_CLIENT", "MAX_IN_ALL"])
def test_the_heading_claims_nothing_that_was_not_checked(dns, monkeypatch, limit):
    monkeypatch.setattr(ptr_check, limit, 1)
    check()
    refused = check()
    assert refused.status_code in {429, 503}
    assert get_heading(refused) == "This mail server’s reverse DNS was not checked"


def test_only_the_address_of_the_link_is_said_to_be_in_the_error_message(dns):
    said = f"It is in the error message you received: {IP}."
    assert said in get_text(browse().get(f"{PATH}?ip={IP}"))
    for typed in (IP, "10.1.2.3"):
        text = get_text(check(typed))
        assert "It is in the error message you received." in text
        assert f"received: {typed}" not in text


def test_who_has_a_name_is_not_asked_to_set_it(dns):
    dns.add(IP, NAME)
    text = get_text(check())
    assert REFUSED not in text
    assert "Please set the reverse DNS" not in text
    assert "Send your message again." in text
    dns.answer(NAME, "A", "192.0.2.99")
    text = get_text(check())
    assert REFUSED not in text
    assert "Please set the reverse DNS" not in text
    assert f'Give <span class="mono">{NAME}</span> an A record with the address' in text


def test_who_has_none_is_told_what_to_ask_for(dns):
    text = get_text(check())
    assert REFUSED in text
    assert f"Please set the reverse DNS (PTR record) of {IP} to" in text


def test_what_is_not_known_to_be_without_a_name_is_not_asked_for(dns):
    dns.everything = "SERVFAIL"
    assert "Please set the reverse DNS (PTR record) of our mail server’s address to" in get_text(check())
    assert "Please set the reverse DNS (PTR record) of our mail server’s address to" in get_text(check("10.1.2.3"))


@pytest.mark.parametrize("host", ["acme.localhost", PLATFORM])
def test_there_is_always_somebody_to_ask(db, host):
    text = get_text(browse().get(PATH, HTTP_HOST=host))
    assert "write to the postmaster of the domain you wrote to" in text


# Who may ask, and how


@pytest.mark.parametrize("host", ["acme.localhost", "globex.localhost", PLATFORM, "nobody.localhost"])
def test_it_works_at_every_hostname_in_the_brand_of_its_provider(dns, host):
    dns.add(IP, NAME)
    with schema_context("public"):
        ServiceProvider.objects.filter(slug="acme").update(support="+1 555 0100")
    page, checked = get_text(browse().get(f"{PATH}?ip={IP}", HTTP_HOST=host)), check(at=host)
    assert checked.status_code == 200
    assert f"has the name {NAME}" in get_seen(checked)
    for text in (page, get_text(checked)):
        assert ("Acme IT" in text) == (host == "acme.localhost")
        assert ("ask us: +1 555 0100" in text) == (host == "acme.localhost")
        assert ("Globex" in text) == (host == "globex.localhost")


@pytest.mark.parametrize("who", ["", "bob", "dora", "alice"])
def test_everybody_may_ask(dns, who):
    client = browse(who)
    assert client.get(PATH).status_code == 200
    assert client.post(PATH, {"ip": IP}).status_code == 200


@pytest.mark.parametrize("verb", ["get", "head"])
def test_opening_the_link_of_an_error_message_asks_nothing(dns, verb):
    for query in (f"?ip={IP}", f"?ip={IP}&check=1"):
        response = getattr(browse(), verb)(PATH + query)
        assert response.status_code == 200
        assert "csrf" not in response.headers.get("Location", "")
    assert dns.asked == []


def test_the_link_of_the_refusal_fills_the_form_in(db):
    text = get_text(browse().get(f"{PATH}?ip=2001:db8::25"))
    assert 'name="ip" value="2001:db8::25"' in text
    assert "reverse DNS (PTR record) of 2001:db8::25 to" in text


def test_another_site_cannot_make_visitors_ask(dns):
    for host in ("acme.localhost", PLATFORM):
        client = browse(enforce_csrf_checks=True)
        assert client.post(PATH, {"ip": IP}, HTTP_HOST=host).status_code == 403
    assert dns.asked == []


@pytest.mark.parametrize("verb", ["put", "delete", "patch"])
def test_other_verbs_are_refused(db, verb):
    assert getattr(browse(), verb)(PATH).status_code == 405


# How often


def test_one_client_may_ask_so_often_and_once_more_is_refused(dns):
    for _ in range(ptr_check.MAX_OF_CLIENT):
        assert check().status_code == 200
    asked = len(dns.asked)
    for host in ("acme.localhost", "globex.localhost", PLATFORM):  # one count for all
        refused = check(at=host)
        assert refused.status_code == 429
        assert "Please wait a minute" in get_seen(refused)
        assert "What to do" in get_text(refused)
    assert len(dns.asked) == asked
    assert check(client="203.0.113.8").status_code == 200


def test_an_ipv6_client_is_its_network(dns):
    for last in range(ptr_check.MAX_OF_CLIENT):
        assert check(client=f"2001:db8:1:2::{last:x}").status_code == 200
    assert check(client="2001:db8:1:2:ffff::1").status_code == 429
    assert check(client="2001:db8:1:3::1").status_code == 200


def test_all_clients_together_may_ask_so_often_and_once_more_is_refused(dns, monkeypatch):
    monkeypatch.setattr(ptr_check, "MAX_IN_ALL", 5)
    hosts = ["acme.localhost", "globex.localhost", PLATFORM]
    for last in range(5):
        assert check(client=f"203.0.113.{last}", at=hosts[last % 3]).status_code == 200
    asked = len(dns.asked)
    refused = check(client="203.0.113.9")
    assert refused.status_code == 503
    assert "Many people are checking addresses just now." in get_seen(refused)
    assert len(dns.asked) == asked


def test_what_was_not_looked_up_does_not_count(dns):
    for typed in ["10.1.2.3", "nonsense"] * ptr_check.MAX_OF_CLIENT:
        check(typed)
    assert check().status_code == 200


def test_slow_name_servers_hold_only_some_threads(dns):
    taken = [ptr_check._slots.acquire(blocking=False) for _ in range(ptr_check.MAX_AT_ONCE)]
    try:
        assert all(taken)
        assert check().status_code == 503
        assert dns.asked == []
    finally:
        for _ in taken:
            ptr_check._slots.release()
    assert check().status_code == 200


def test_the_count_ends_by_itself(dns):
    check()
    with schema_context("public"):
        for key in ("ptr-check", "ptr-check:203.0.113.7"):
            seconds = cache._cache.get_client(None, write=True).ttl(cache.make_and_validate_key(key))
            assert 0 < seconds <= WINDOW_SECONDS


# While the cache is away


@pytest.mark.parametrize("host", ["acme.localhost", PLATFORM])
def test_while_valkey_is_away_the_page_works_and_the_check_says_so(dns, host):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with override_settings(CACHES=base.make_caches(f"redis://127.0.0.1:{port}/0")):
        assert browse().get(f"{PATH}?ip={IP}", HTTP_HOST=host).status_code == 200
        refused = check(at=host)
    assert refused.status_code == 503
    assert "The check is not available just now." in get_seen(refused)
    assert "What to do" in get_text(refused)
    assert dns.asked == []


def test_a_valkey_that_hangs_hangs_no_page(dns, monkeypatch):
    monkeypatch.setattr(base, "CACHE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        port = silent.getsockname()[1]
        with override_settings(CACHES=base.make_caches(f"redis://127.0.0.1:{port}/0")):
            found = []
            thread = threading.Thread(target=lambda: found.append(ptr_check.check_address(ip_address(IP), client="x")))
            thread.start()
            thread.join(60)
    assert found == [Refusal.UNAVAILABLE]
