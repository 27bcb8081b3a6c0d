"""Rules, mailboxes, domains, reports, settings and the brand."""

from __future__ import annotations

import itertools
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test.utils import CaptureQueriesContext

from filtering.policy.models import PolicyRelease
from portal.tenants.colours import CONTRAST, get_contrast, parse_colour
from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import DomainAdmin, Mailbox, SenderRule, User
from portal.web.branding import DARK, LIGHT, make_theme
from quarantine.models import State
from reports.models import Digest
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 40
pytestmark = pytest.mark.django_db


def get_acme() -> ServiceProvider:
    return ServiceProvider.objects.get(slug="acme")


def get_domain(name: str = "alpha.test") -> MailDomain:
    return MailDomain.objects.get(name=name)


def get_mailbox(address: str = "bob@alpha.test") -> Mailbox:
    return Mailbox.objects.get(address=address)


# Rules


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("ann@partner.test", "ann@partner.test"),
        ("  <Ann@Partner.TEST> ", "ann@partner.test"),
        ("partner.test", "@partner.test"),
        ("@Partner.test.", "@partner.test"),
        ("bücher.test", "@xn--bcher-kva.test"),
    ],
)
def test_a_rule_takes_what_people_type(acme, typed, kept):
    data = {"pattern": typed, "action": "block", "scope": f"m{get_mailbox().pk}"}
    assert browse("bob").post("/senders/", data).status_code == 302
    rule = SenderRule.objects.get()
    assert (rule.pattern, rule.action, rule.mailbox.address) == (kept, "block", "bob@alpha.test")
    assert rule.created_by.email == "bob@alpha.test"


@pytest.mark.parametrize(
    "typed", ["", "ann", "ann@", "@", "a b@x.test", "ann@@x.test", "*", "ann@x", "x" * 400, "\0@x.test"]
)
def test_a_rule_refuses_what_is_no_sender_with_a_sentence(acme, typed):
    data = {"pattern": typed, "action": "block", "scope": f"m{get_mailbox().pk}"}
    response = browse("bob").post("/senders/", data)
    assert response.status_code == 400
    assert 'class="errorlist"' in get_text(response)
    assert not SenderRule.objects.exists()


def test_the_same_rule_twice_is_refused_with_a_sentence(acme):
    data = {"pattern": "x@far.test", "action": "block", "scope": f"m{get_mailbox().pk}"}
    client = browse("bob")
    client.post("/senders/", data)
    text = get_text(client.post("/senders/", data | {"action": "allow"}))
    assert "x@far.test is blocked already" in text
    assert SenderRule.objects.get().action == "block"


def test_rules_reach_as_far_as_their_makers(acme):
    browse("dora").post("/senders/", {"pattern": "a.test", "action": "allow", "scope": f"d{get_domain().pk}"})
    browse("alice").post("/senders/", {"pattern": "b.test", "action": "block", "scope": "all"})
    found = {rule.pattern: (rule.mailbox_id, rule.domain_id) for rule in SenderRule.objects.all()}
    assert found == {"@a.test": (None, get_domain().pk), "@b.test": (None, None)}
    assert "everybody at alpha.test" in get_text(browse("dora").get("/senders/"))
    assert "@b.test" not in get_text(browse("dora").get("/senders/"))


def test_rules_are_removed_and_walked(acme):
    SenderRule.objects.bulk_create(
        SenderRule(action="allow", pattern=f"@d{n:03}.test", mailbox=get_mailbox()) for n in range(120)
    )
    client = browse("bob")
    first = get_text(client.get("/senders/"))
    more = re.search(r'href="(\?after=[^"]+)"', first)[1].replace("&amp;", "&")
    seen = re.findall(r"@d(\d{3})\.test</strong>", first + get_text(client.get(f"/senders/{more}")))
    assert seen == [f"{n:03}" for n in range(120)]
    client.post(f"/senders/{SenderRule.objects.first().pk}/remove/")
    assert SenderRule.objects.count() == 119


# Mailboxes and reports


def test_mailboxes_show_owner_hour_and_what_is_held(acme):
    for _ in range(3):
        keep("bob@alpha.test")
    keep("bob@alpha.test", state=State.DELIVERED)
    text = get_text(browse("dora").get("/mailboxes/"))
    assert "3 held" in text
    assert "bob@alpha.test" in text
    assert "07:00" in text


def test_the_list_of_mailboxes_costs_the_same_whatever_its_length(acme):
    client = browse("alice")

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get("/mailboxes/")
        return len(queries)

    one = count()
    Mailbox.objects.bulk_create(Mailbox(address=f"m{n}@alpha.test", domain_id=get_domain().pk) for n in range(60))
    assert count() == one
    assert 'href="?after=' in get_text(client.get("/mailboxes/"))
    assert "m59@alpha.test" in get_text(client.get("/mailboxes/?q=m59"))


@pytest.mark.parametrize("who", ["bob", "dora", "alice"])
def test_the_report_is_sent_again(acme, who):
    """All three roles; the second time within a minute says that it is on its way already."""
    client = browse(who)
    text = get_text(client.post("/report/", {"mailbox": get_mailbox().pk}, follow=True))
    assert "on its way to bob@alpha.test" in text
    digest = Digest.objects.get()
    assert (digest.mailbox.address, digest.kind, digest.state) == ("bob@alpha.test", "on_demand", "due")
    assert "less than a minute ago" in get_text(client.post("/report/", {"mailbox": get_mailbox().pk}, follow=True))


def test_nobody_asks_for_anothers_report(acme):
    assert browse("carol").post("/report/", {"mailbox": get_mailbox().pk}).status_code == 404
    assert browse("dora").post("/report/", {"mailbox": get_mailbox("bea@beta.test").pk}).status_code == 404
    assert not Digest.objects.exists()


def test_who_has_no_mailbox_is_told(acme):
    assert "You have no mailbox of your own" in get_text(browse("alice").post("/report/", follow=True))


def test_the_hour_of_a_mailbox_moves_its_next_report(acme):
    client = browse("bob")
    path = f"/mailboxes/{get_mailbox().pk}/"
    assert client.post(path, {"wants_digest": "on", "digest_hour": "17"}).status_code == 302
    mailbox = get_mailbox()
    assert (mailbox.wants_digest, mailbox.digest_hour, mailbox.next_digest_at.hour) == (True, 17, 17)
    client.post(path, {"digest_hour": ""})
    mailbox = get_mailbox()
    assert (mailbox.wants_digest, mailbox.digest_hour) == (False, None)
    assert client.post(path, {"digest_hour": "24"}).status_code == 400


# Domains

CHOICES = {"recipient_policy": "callout", "spam_action": "tag", "sure_spam_action": "deliver", "ptr_action": "off",
           "digest_hour": "9", "time_zone": "Europe/Berlin"}  # fmt: skip


def test_a_domain_admin_chooses_actions_hour_and_zone_and_not_the_server(acme):
    path = f"/domains/{get_domain().pk}/"
    client = browse("dora")
    assert 'name="server"' not in get_text(client.get(path))
    assert client.post(path, CHOICES | {"server": "evil.test:25", "server_host": "evil.test"}).status_code == 302
    domain = get_domain()
    assert (domain.spam_action, domain.sure_spam_action, domain.ptr_action) == ("tag", "deliver", "off")
    assert domain.recipient_policy == "callout"
    assert (domain.digest_hour, domain.time_zone, domain.server_host) == (9, "Europe/Berlin", "127.0.0.1")
    assert get_mailbox().next_digest_at is not None


def test_what_the_policy_says_is_said_where_it_is_a_choice(acme):
    pk = MailDomain.objects.get(name="alpha.test").pk
    client = browse("dora")
    for path in ("/domains/", f"/domains/{pk}/"):
        assert "As the policy says (refuse)" in get_text(client.get(path))
    PolicyRelease.objects.filter(is_live=True).update(content={"ptr": {"action": "off"}})
    for path in ("/domains/", f"/domains/{pk}/"):
        assert "As the policy says (ignore)" in get_text(client.get(path))
    PolicyRelease.objects.update(is_live=False)
    for path in ("/domains/", f"/domains/{pk}/"):
        text = get_text(client.get(path))
        assert "As the policy says" in text
        assert "As the policy says (" not in text


def test_the_provider_sets_the_server(acme):
    path = f"/domains/{get_domain().pk}/"
    assert browse("alice").post(path, CHOICES | {"server": "[2001:db8::25]:2525"}).status_code == 302
    assert (get_domain().server_host, get_domain().server_port) == ("2001:db8::25", 2525)
    assert "[2001:db8::25]:2525" in get_text(browse("alice").get(path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "nowhere"},
        {"server": "x y:25"},
        {"server": "mail.test:99999"},
        {"time_zone": "Mars/Olympus"},
        {"digest_hour": "24"},
        {"spam_action": "explode"},
        {"recipient_policy": "nobody"},
    ],
)
def test_a_wrong_choice_is_refused_and_changes_nothing(acme, wrong):
    response = browse("alice").post(f"/domains/{get_domain().pk}/", CHOICES | {"server": "mail.test:25"} | wrong)
    assert response.status_code == 400
    assert 'class="errorlist"' in get_text(response)
    assert (get_domain().spam_action, get_domain().server_host) == ("quarantine", "127.0.0.1")


# Settings and brand

BRAND = {"name": "Acme New", "colour": "#AA00FF", "support": "Call us", "send_empty_digests": "on"}


def test_the_brand_is_changed_and_shown_to_everybody(acme):
    upload = SimpleUploadedFile("logo.png", PNG, "image/png")
    assert browse("alice").post("/settings/", BRAND | {"logo_file": upload}).status_code == 302
    page = get_text(browse().get("/sign-in/"))
    assert "Acme New" in page
    assert "Call us" in page
    assert '<img src="/brand/logo"' in page
    logo = browse().get("/brand/logo")
    assert (logo.content, logo["Content-Type"], logo["X-Content-Type-Options"]) == (PNG, "image/png", "nosniff")
    assert browse().get("/brand/logo", HTTP_IF_NONE_MATCH=logo["ETag"]).status_code == 304
    assert "--brand:#aa00ff" in get_text(browse().get("/brand/theme.css"))


def test_the_logo_is_told_by_its_content_and_removed_again(acme):
    client = browse("alice")
    client.post("/settings/", BRAND | {"logo_file": SimpleUploadedFile("x.png", JPEG, "image/png")})
    assert get_acme().logo_type == "image/jpeg"
    client.post("/settings/", BRAND | {"remove_logo": "on"})
    assert (get_acme().logo, get_acme().logo_type) == (None, "")
    assert browse().get("/brand/logo").status_code == 404


@pytest.mark.parametrize(
    "content", [b"<svg onload=alert(1)>", b"GIF89a" + b"\0" * 40, PNG + b"\0" * 262_144], ids=["svg", "gif", "large"]
)
def test_a_file_that_is_no_small_picture_is_refused(acme, content):
    response = browse("alice").post(
        "/settings/", BRAND | {"logo_file": SimpleUploadedFile("x.png", content, "image/png")}
    )
    assert response.status_code == 400
    assert (get_acme().name, get_acme().logo) == ("Acme IT", None)
    assert "<title>Settings · Acme IT</title>" in get_text(response)


@pytest.mark.parametrize("colour", ["red", "#12345", "#1234567", "#fff;}body{x:y}", ""])
def test_a_colour_that_is_none_is_refused(acme, colour):
    assert browse("alice").post("/settings/", BRAND | {"colour": colour}).status_code == 400
    assert get_acme().colour == "#1f4e79"


def test_empty_reports_are_switched_off_beside_a_warning(acme):
    client = browse("alice")
    assert "call you" in get_text(client.get("/settings/"))
    client.post("/settings/", {name: value for name, value in BRAND.items() if name != "send_empty_digests"})
    assert get_acme().send_empty_digests is False


def test_one_providers_brand_is_not_shown_at_anothers_or_at_none(db):
    ServiceProvider.objects.filter(slug="acme").update(support="Acme support", logo=PNG, logo_type="image/png")
    for host in ("globex.localhost", "nobody.localhost", "127.0.0.1"):
        for path in ("/sign-in/", "/help/reverse-dns", "/nowhere", "/"):
            text = get_text(browse().get(path, HTTP_HOST=host, follow=True))
            assert "Acme" not in text
            assert ("Globex" in text) == (host == "globex.localhost")
        assert browse().get("/brand/logo", HTTP_HOST=host).status_code == 404


def test_only_the_demo_lists_its_portals(db, settings):
    assert browse().get("/", HTTP_HOST="127.0.0.1").status_code == 404
    settings.DEMO = True
    text = get_text(browse().get("/", HTTP_HOST="127.0.0.1"))
    assert 'href="http://acme.localhost:' in text
    assert 'href="http://globex.localhost:' in text


def test_every_colour_gives_readable_text():
    """4.5 : 1, on the light and on the dark surface, for every brand colour."""
    steps = ("00", "33", "66", "80", "99", "cc", "ff")
    for red, green, blue in itertools.product(steps, repeat=3):
        values = [parse_colour(value) for value in re.findall(r"#[0-9a-f]{6}", make_theme(f"#{red}{green}{blue}"))]
        for (brand, on_brand, accent, on_accent), surface in ((values[:4], LIGHT), (values[4:], DARK)):
            assert get_contrast(brand, on_brand) >= CONTRAST
            assert get_contrast(accent, on_accent) >= CONTRAST
            assert get_contrast(accent, surface) >= CONTRAST


# What every page has


def test_every_page_forbids_what_is_from_elsewhere_or_inline(acme):
    client = browse("alice")
    for path in (
        "/",
        "/senders/",
        "/mailboxes/",
        "/domains/",
        "/settings/",
        "/trace/",
        "/activity/",
        "/account/",
        "/nowhere",
    ):
        response = client.get(path)
        policy = response["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        text = get_text(response)
        assert not re.search(r"<script(?![^>]* src=\"/static/)|<style|\sstyle=|\son\w+=|javascript:", text), path
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text), path


def test_refused_senders_are_told_what_to_do(db):
    for host in ("acme.localhost", "127.0.0.1"):
        text = get_text(browse().get("/help/reverse-dns?ip=203.0.113.9", HTTP_HOST=host))
        assert "9.113.0.203.in-addr.arpa" in text
    for wrong in ("<script>", "999.1.1.1", "x" * 5000):
        response = browse().get("/help/reverse-dns", {"ip": wrong})
        assert response.status_code == 200
        assert wrong not in get_text(response)
    assert "1.0.0.0" in get_text(browse().get("/help/reverse-dns?ip=2001:db8::1"))


def test_a_message_is_found_by_trace_id_message_id_and_address(acme):
    message = keep(
        "bob@alpha.test", subject="Lost one", sender="ann@far.test", state=State.REFUSED, cause="policy",
        reply="553 5.3.0 no PTR",
    )  # fmt: skip
    keep("bob@alpha.test", subject="Another", sender="ben@far.test")
    type(message).objects.filter(pk=message.pk).update(message_id="<4711@far.test>")
    client = browse("dora")
    for text in (message.trace_id, message.trace_id.lower(), "4711@far.test", "<4711@far.test>", "ANN@far.test"):
        page = get_text(client.get("/trace/", {"q": text}))
        assert "Lost one" in page
        assert "553 5.3.0 no PTR" in page
        assert "Another" not in page
    assert "No trace of it" in get_text(client.get("/trace/?q=4712@far.test"))
    assert "no trace id, Message-ID, address" in get_text(client.get("/trace/?q=nothing"))


def test_a_fault_shows_the_brand_and_no_text_of_it(acme, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("portal.web.views.quarantine.make_list", fail)
    client = browse("bob", raise_request_exception=False)
    response = client.get("/")
    assert response.status_code == 500
    assert "Acme IT" in get_text(response)
    assert "secret detail" not in get_text(response)


def test_admins_of_nothing_here_are_no_admins(acme):
    """A row of another provider's domain gives no right."""
    carol = User.objects.get(email="carol@alpha.test")
    DomainAdmin.objects.create(user=carol, domain_id=get_domain("gamma.test").pk)
    assert "gamma.test" not in get_text(browse("carol").get("/domains/"))
    assert browse("carol").get(f"/domains/{get_domain('gamma.test').pk}/").status_code == 404
