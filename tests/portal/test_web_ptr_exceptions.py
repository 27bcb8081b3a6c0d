"""The page of exceptions from the reverse DNS rule: who may grant, end and read what."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from filtering.policy.ptr_exceptions import end, grant
from portal.tenants.models import MailDomain
from portal.tenants.people.models import PtrException
from quarantine.models import Message, State
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text

pytestmark = pytest.mark.django_db

IP = "192.0.2.25"
ATTACK = "<script>alert(1)</script>"


def get_id(name: str) -> int:
    return MailDomain.objects.get(name=name).pk


def make(domain: str = "", *, network: str = IP, by: str = "alice@acme.test", reason: str = "moving") -> PtrException:
    return grant(network, domain_id=get_id(domain) if domain else None, days=7, reason=reason, by=by)


def fill_in(scope: str | int, **values: str) -> dict[str, str]:
    return {"network": IP, "scope": str(scope), "days": "7", "reason": "their ISP is slow"} | values


def test_a_domain_admin_grants_and_ends_one_for_their_domain(acme):
    client = browse("dora")
    before = timezone.now()
    text = get_text(client.post("/reverse-dns/", fill_in(get_id("alpha.test"), days="30"), follow=True))
    assert f"{IP} is let in from now on" in text
    made = PtrException.objects.get()
    assert (made.network, made.domain_id, made.created_by) == (IP, get_id("alpha.test"), "dora@alpha.test")
    assert made.until >= before + timedelta(days=30)
    assert "their ISP is slow" in text

    text = get_text(client.post(f"/reverse-dns/{made.pk}/end/", follow=True))
    assert f"The exception for {IP} is ended." in text
    made.refresh_from_db()
    assert made.ended_by == "dora@alpha.test"
    assert made.ended_at is not None
    assert "No exceptions" in text
    assert "may be refused, by the policy or by a domain’s own choice" in text
    past = get_text(client.get("/reverse-dns/?show=past"))
    for told in (IP, "their ISP is slow", "by dora@alpha.test"):
        assert told in past
    assert "had ended already" in get_text(client.post(f"/reverse-dns/{made.pk}/end/", follow=True))
    assert PtrException.objects.get().ended_at == made.ended_at


def test_a_provider_admin_grants_one_for_all_domains(acme):
    assert browse("alice").post("/reverse-dns/", fill_in("all")).status_code == 302
    assert PtrException.objects.get().domain_id is None


@pytest.mark.parametrize("scope", ["all", "beta.test", "gamma.test", "", "x"])
def test_a_domain_admin_grants_nothing_for_others(acme, scope):
    scope = get_id(scope) if "." in scope else scope
    assert browse("dora").post("/reverse-dns/", fill_in(scope)).status_code == 400
    assert not PtrException.objects.exists()


def test_a_provider_admin_grants_nothing_for_another_providers_domain(acme):
    assert browse("alice").post("/reverse-dns/", fill_in(get_id("gamma.test"))).status_code == 400
    assert not PtrException.objects.exists()


@pytest.mark.parametrize("who", ["bob", "carol", "bea"])
def test_end_users_have_no_such_page(acme, who):
    made = make("alpha.test")
    client = browse(who)
    assert client.get("/reverse-dns/").status_code == 404
    assert client.post("/reverse-dns/", fill_in(get_id("alpha.test"))).status_code == 404
    assert client.post(f"/reverse-dns/{made.pk}/end/").status_code == 404
    assert 'href="/reverse-dns/"' not in get_text(client.get("/"))
    made.refresh_from_db()
    assert made.ended_at is None


def test_strangers_and_other_providers_people_are_sent_to_sign_in(acme):
    made = make("alpha.test")
    for client in (browse(), browse("mallory")):
        for path in ("/reverse-dns/", f"/reverse-dns/{made.pk}/end/"):
            assert client.post(path, fill_in("all")).status_code == 302
    made.refresh_from_db()
    assert made.ended_at is None
    with schema_context("sp_globex"):
        assert not PtrException.objects.exists()


def test_another_provider_sees_and_ends_only_its_own(acme):
    made = make("alpha.test", reason="SECRET")
    client = browse("mallory", at="globex")
    for path in ("/reverse-dns/", "/reverse-dns/?show=past"):
        assert "SECRET" not in get_text(client.get(path))
    assert client.post(f"/reverse-dns/{made.pk}/end/").status_code == 404
    with schema_context("sp_acme"):
        assert PtrException.objects.get().ended_at is None


def test_a_domain_admin_sees_what_holds_for_their_domain_and_ends_only_their_own(acme):
    """The one for all domains is listed, as it lets servers in; its reason may be about other customers."""
    make("alpha.test", network="192.0.2.1", reason="for alpha", by="dora@alpha.test")
    everywhere = make("", network="192.0.2.2", reason="SECRET of beta")
    past = make("", network="192.0.2.4")
    assert end(PtrException.objects.filter(pk=past.pk), by="alice@acme.test")
    elsewhere = make("beta.test", network="192.0.2.3", reason="for beta")
    client = browse("dora")
    text = get_text(client.get("/reverse-dns/"))
    assert "192.0.2.1" in text
    assert "for alpha" in text
    assert "192.0.2.2" in text
    assert "SECRET" not in text
    assert "alice@acme.test" not in text
    text_of_past = get_text(client.get("/reverse-dns/?show=past"))
    assert "192.0.2.4" in text_of_past
    assert "alice@acme.test" not in text_of_past
    assert "by alice@acme.test" in get_text(browse("alice").get("/reverse-dns/?show=past"))
    assert "192.0.2.3" not in text
    assert text.count("/end/") == 1
    for row in (everywhere, elsewhere):
        assert client.post(f"/reverse-dns/{row.pk}/end/").status_code == 404
    assert not PtrException.objects.exclude(network="192.0.2.4").exclude(ended_at=None).exists()
    assert get_text(browse("alice").get("/reverse-dns/")).count("/end/") == 3


@pytest.mark.parametrize("verb", ["get", "head"])
def test_looking_changes_nothing(acme, verb):
    made = make("alpha.test")
    client = browse("dora")
    assert getattr(client, verb)(f"/reverse-dns/{made.pk}/end/").status_code == 405
    query = fill_in(get_id("alpha.test"), network="192.0.2.9")
    assert getattr(client, verb)("/reverse-dns/", query).status_code == 200
    assert PtrException.objects.get().ended_at is None


def test_neither_is_done_from_another_site(acme):
    made = make("alpha.test")
    client = browse("dora", enforce_csrf_checks=True)
    assert client.post("/reverse-dns/", fill_in(get_id("alpha.test"), network="192.0.2.9")).status_code == 403
    assert client.post(f"/reverse-dns/{made.pk}/end/").status_code == 403
    assert PtrException.objects.get().ended_at is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"network": "192.0.2.0/23"}, "192.0.2.0/23 is too large: at most an IPv4 network of /24"),
        ({"network": "2001:db8::/32"}, "2001:db8::/32 is too large: at most an IPv6 network of /48"),
        ({"network": "mail.far.test"}, "Give an address such as 192.0.2.25"),
        ({"network": "10.0.0.1"}, "10.0.0.1 is no public address"),
        ({"network": ""}, "This field is required."),
        ({"reason": "  "}, "This field is required."),
        ({"reason": "x" * 301}, "at most 300 characters"),
        ({"days": "365"}, "365 is not one of the available choices"),
        ({"days": ""}, "This field is required."),
    ],
)
def test_what_is_refused_is_said_in_a_sentence_and_what_was_typed_stays(acme, wrong, said):
    response = browse("dora").post("/reverse-dns/", fill_in(get_id("alpha.test")) | wrong)
    assert response.status_code == 400
    assert said in get_text(response)
    assert ("their ISP is slow" in get_text(response)) == ("reason" not in wrong)
    assert not PtrException.objects.exists()


def test_the_same_again_is_refused_with_a_sentence(acme):
    make("alpha.test")
    response = browse("dora").post("/reverse-dns/", fill_in(get_id("alpha.test")))
    assert response.status_code == 400
    assert f"{IP} is excepted already" in get_text(response)


def test_one_that_ran_out_is_listed_as_past(acme):
    now = timezone.now()
    PtrException.objects.create(network=IP, until=now, reason="ran out", created_by="dora@alpha.test")
    client = browse("alice")
    assert "ran out" not in get_text(client.get("/reverse-dns/"))
    text = get_text(client.get("/reverse-dns/?show=past"))
    assert "ran out" in text
    assert "by itself" in text


def test_a_link_fills_the_form_in(acme):
    alpha, gamma = get_id("alpha.test"), get_id("gamma.test")
    client = browse("alice")
    text = get_text(client.get("/reverse-dns/", {"network": "2001:db8::25", "domain": alpha}))
    assert 'value="2001:db8::25"' in text
    assert re.search(rf'<option value="{alpha}" selected>alpha.test</option>', text)
    for foreign in (gamma, "x", "9" * 30):
        assert client.get("/reverse-dns/", {"domain": foreign}).status_code == 404
    assert browse("dora").get("/reverse-dns/", {"domain": get_id("beta.test")}).status_code == 404


@pytest.mark.parametrize(("who", "linked"), [("bob", False), ("dora", True), ("alice", True)])
def test_from_a_refused_message_one_click_leads_admins_to_the_form(acme, who, linked):
    message = keep("bob@alpha.test", state=State.REFUSED)
    Message.objects.update(ptr_status="none")
    client = browse(who)
    text = get_text(client.get(f"/m/{message.recipients.get().pk}/"))
    found = re.search(r'href="(/reverse-dns/\?network=[^"]+)"', text)
    assert (found is not None) is linked
    if found:
        form = get_text(client.get(found[1].replace("&amp;", "&")))
        assert f'value="{IP}"' in form
        assert f'<option value="{get_id("alpha.test")}" selected>' in form


def test_from_other_mail_nothing_leads_there(acme):
    message = keep("bob@alpha.test")
    Message.objects.update(ptr_status="ok")
    assert "/reverse-dns/?" not in get_text(browse("dora").get(f"/m/{message.recipients.get().pk}/"))


def test_nothing_is_shown_unescaped(acme):
    make("alpha.test", reason=ATTACK, by=ATTACK)
    client = browse("dora")
    pages = [client.get("/reverse-dns/", {"network": ATTACK}), client.post("/reverse-dns/", {"network": ATTACK})]
    for page in pages:
        assert ATTACK not in get_text(page)
        assert "&lt;script&gt;" in get_text(page)


def test_the_list_is_walked_at_the_same_cost(acme):
    client = browse("dora")

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get("/reverse-dns/")
        return len(queries)

    make("alpha.test", network="192.0.2.0")
    one = count()
    for last in range(1, 120):
        make("alpha.test", network=f"192.0.2.{last}")
    assert count() == one
    seen, path = [], "/reverse-dns/"
    while path:
        text = get_text(client.get(path))
        seen += re.findall(r">192\.0\.2\.(\d+)</strong>", text)
        older = re.search(r'href="(\?before=[^"]+)"', text)
        path = f"/reverse-dns/{older[1]}" if older else ""
    assert seen == [str(last) for last in reversed(range(120))]
    assert client.get("/reverse-dns/?before=x").status_code == 404
