"""Who sees what: every page, every verb, every role. What could leak is made first."""

from __future__ import annotations

import pytest
from django.urls import get_resolver
from django.urls.resolvers import URLPattern
from django_tenants.utils import schema_context

from filtering.policy.ptr_exceptions import grant
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, PtrException, SenderRule, User
from quarantine.models import Recipient, State
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text

VERBS = ("get", "head", "post", "put", "patch", "delete", "options")
ELSEWHERE = {"digest_link", "healthz"}  # tested beside their own code
OPEN = {"brand_logo", "brand_theme", "help_reverse_dns", "sign_in", "account_login", "account_inactive"}
ALLAUTH = {"sign_out", "account_logout", "change_password", "account_change_password"}
FOR_ALL = {"quarantine", "act", "trace", "rules", "report", "account", "send_report", "forget_browsers"}
FOR_ADMINS = {"mailboxes", "domains", "ptr_exceptions", "activity"}
FOR_PROVIDER = {"settings"}
OF_MESSAGE = {"message", "message_html", "message_raw", "rule_sender", "history"}
OF_ROW = {"mailbox", "domain", "check_mailbox", "remove_rule", "end_ptr_exception"}
SECRET = "SECRET-OF-BOB"

pytestmark = pytest.mark.django_db


def list_names() -> set[str]:
    patterns = get_resolver("portal.urls").url_patterns
    return {pattern.name for pattern in patterns if isinstance(pattern, URLPattern) and pattern.name}


def make_bobs_things() -> dict[str, int]:
    """A message, a rule, a mailbox and a domain that only Bob and the admins above him may touch."""
    message = keep("bob@alpha.test", subject=SECRET, raw=f"Subject: {SECRET}\r\n\r\n{SECRET}\r\n".encode())
    mailbox = Mailbox.objects.get(address="bob@alpha.test")
    rule = SenderRule.objects.create(action="allow", pattern="secret-of-bob@far.test", mailbox=mailbox)
    row = message.recipients.get().pk
    exception = grant("192.0.2.25", domain_id=mailbox.domain_id, days=7, reason=SECRET, by="alice@acme.test")
    own = dict.fromkeys(OF_MESSAGE, row) | {"end_ptr_exception": exception.pk}
    of_domain = dict.fromkeys(("domain", "check_mailbox"), mailbox.domain_id)
    return own | of_domain | {"remove_rule": rule.pk, "mailbox": mailbox.pk}


def test_every_page_is_in_this_test():
    assert (
        list_names() - ELSEWHERE
        == OPEN | ALLAUTH | (FOR_ALL - {"report"}) | FOR_ADMINS | FOR_PROVIDER | OF_MESSAGE | OF_ROW
    )


PATHS = {
    "quarantine": "/",
    "act": "/act/",
    "rules": "/senders/",
    "account": "/account/",
    "send_report": "/report/",
    "forget_browsers": "/account/forget-browsers/",
    "mailboxes": "/mailboxes/",
    "domains": "/domains/",
    "ptr_exceptions": "/reverse-dns/",
    "end_ptr_exception": "/reverse-dns/{}/end/",
    "trace": "/trace/",
    "history": "/trace/{}/",
    "activity": "/activity/",
    "settings": "/settings/",
    "message": "/m/{}/",
    "message_html": "/m/{}/html/",
    "message_raw": "/m/{}/raw/",
    "rule_sender": "/m/{}/sender/",
    "mailbox": "/mailboxes/{}/",
    "domain": "/domains/{}/",
    "check_mailbox": "/domains/{}/check/",
    "remove_rule": "/senders/{}/remove/",
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("who", ["carol", "bea"])
def test_anothers_things_do_not_exist(acme, who, verb):
    things = make_bobs_things()
    client = browse(who)
    for name, pk in things.items():
        response = getattr(client, verb)(PATHS[name].format(pk))
        assert response.status_code == 404, (name, verb, response.status_code)
        assert SECRET not in get_text(response)
    assert Recipient.objects.get(pk=things["message"]).state == State.QUARANTINED
    assert SenderRule.objects.filter(pk=things["remove_rule"]).exists()
    assert PtrException.objects.get().ended_at is None


@pytest.mark.parametrize("verb", ["get", "post"])
def test_wrong_verb_of_ones_own_changes_nothing(acme, verb):
    """What only reads refuses to be posted to, and what changes refuses to be read."""
    things = make_bobs_things()
    client = browse("bob")
    only = {"get": ["message", "message_html", "message_raw", "history"], "post": ["rule_sender", "remove_rule"]}
    other = "post" if verb == "get" else "get"
    for name in only[verb]:
        assert getattr(client, other)(PATHS[name].format(things[name])).status_code == 405
    assert SenderRule.objects.filter(pk=things["remove_rule"]).exists()


@pytest.mark.parametrize("verb", VERBS)
def test_strangers_are_sent_to_sign_in(acme, verb):
    things = make_bobs_things()
    client = browse()
    for name, path in PATHS.items():
        response = getattr(client, verb)(path.format(things.get(name, "")))
        assert response.status_code == 302, (name, verb)
        assert response["Location"].startswith("/sign-in/"), (name, verb)


@pytest.mark.parametrize("verb", VERBS)
def test_mallory_is_a_stranger_at_acme(acme, verb):
    """Her session is of the other provider; a user of the same id lives here."""
    things = make_bobs_things()
    client = browse("mallory")
    for name, path in PATHS.items():
        response = getattr(client, verb)(path.format(things.get(name, "")))
        assert response.status_code == 302, (name, verb)


@pytest.mark.parametrize("verb", VERBS)
def test_acmes_ids_lead_nowhere_at_globex(acme, verb):
    things = make_bobs_things()
    client = browse("mallory", at="globex")
    for name in OF_MESSAGE | {"domain", "check_mailbox", "remove_rule", "end_ptr_exception"}:
        response = getattr(client, verb)(PATHS[name].format(things[name]))
        assert response.status_code == 404, (name, verb)
        assert SECRET not in get_text(response)
    with schema_context("sp_acme"):
        assert SenderRule.objects.filter(pk=things["remove_rule"]).exists()


@pytest.mark.parametrize(
    ("who", "sees"),
    [
        ("bob", OF_MESSAGE | {"mailbox"}),
        ("dora", OF_MESSAGE | {"mailbox", "domain"}),
        ("alice", OF_MESSAGE | {"mailbox", "domain"}),
    ],
)
def test_the_people_concerned_see_it(acme, who, sees):
    things = make_bobs_things()
    client = browse(who)
    for name in sees - {"rule_sender"}:
        assert client.get(PATHS[name].format(things[name])).status_code == 200, name
    assert SECRET in get_text(client.get("/"))


@pytest.mark.parametrize(
    ("who", "hidden"),
    [
        ("bob", FOR_ADMINS | FOR_PROVIDER),
        ("carol", FOR_ADMINS | FOR_PROVIDER),
        ("dora", FOR_PROVIDER),
        ("alice", set()),
    ],
)
def test_admins_pages_exist_for_admins_only(acme, who, hidden):
    client = browse(who)
    for name in FOR_ADMINS | FOR_PROVIDER:
        for verb in ("get", "post"):
            status = getattr(client, verb)(PATHS[name]).status_code
            assert (status == 404) == (name in hidden), (name, verb, status)


def test_no_list_search_or_count_shows_anothers_mail(acme):
    """Y02: whatever is asked, Bob's mark never comes."""
    things = make_bobs_things()
    bob = Mailbox.objects.get(address="bob@alpha.test")
    client = browse("carol")
    for query in (
        "",
        "?q=SECRET",
        "?show=all",
        "?show=released",
        "?category=spam",
        "?q=bob",
        "?after=99999999999999999-9",
    ):
        text = get_text(client.get("/" + query)).replace("?q=SECRET", "").replace('value="SECRET"', "")
        assert SECRET not in text
        assert "1 message" not in text
    assert client.get(f"/?mailbox={bob.pk}").status_code == 404
    assert client.get(f"/?domain={bob.domain_id}").status_code == 404
    assert "secret-of-bob" not in get_text(client.get("/senders/"))
    assert client.get(f"/senders/?after={things['remove_rule']}").status_code == 404


def test_domain_admin_sees_own_domain_and_no_other(acme):
    keep("bea@beta.test", subject="SECRET-OF-BEA")
    keep("bob@alpha.test", subject=SECRET)
    beta = MailDomain.objects.get(name="beta.test")
    client = browse("dora")
    for path in ("/", "/?show=all", "/trace/?q=spam@far.test"):
        text = get_text(client.get(path))
        assert SECRET in text
        assert "SECRET-OF-BEA" not in text
    assert "bea@beta.test" not in get_text(client.get("/mailboxes/"))
    assert "beta.test" not in get_text(client.get("/domains/"))
    assert client.get(f"/domains/{beta.pk}/").status_code == 404
    assert client.get(f"/mailboxes/?domain={beta.pk}").status_code == 404


def test_the_shared_table_of_domains_shows_the_providers_own_only(acme):
    gamma = MailDomain.objects.get(name="gamma.test")
    client = browse("alice")
    assert "gamma.test" not in get_text(client.get("/domains/"))
    assert client.get(f"/domains/{gamma.pk}/").status_code == 404
    assert client.post(f"/domains/{gamma.pk}/", {"server": "evil.test:25"}).status_code == 404
    gamma.refresh_from_db()
    assert gamma.server_host == "127.0.0.1"


def test_one_foreign_id_in_a_selection_changes_nothing(acme):
    own = keep("carol@alpha.test").recipients.get()
    foreign = keep("bob@alpha.test").recipients.get()
    client = browse("carol")
    for action in ("release", "delete", "allow", "block"):
        data = {"id": [own.pk, foreign.pk], "action": action, "confirmed": "1"}
        assert client.post("/act/", data).status_code == 404
    assert set(Recipient.objects.values_list("state", flat=True)) == {State.QUARANTINED}
    assert not SenderRule.objects.exists()


def test_all_that_match_means_all_of_ones_own(acme):
    own = keep("carol@alpha.test").recipients.get()
    foreign = keep("bob@alpha.test").recipients.get()
    browse("carol").post("/act/", {"matching": "1", "action": "release"})
    own.refresh_from_db()
    foreign.refresh_from_db()
    assert (own.state, foreign.state) == (State.RELEASING, State.QUARANTINED)


def test_rules_reach_no_further_than_their_maker(acme):
    alpha = MailDomain.objects.get(name="alpha.test")
    bob = Mailbox.objects.get(address="bob@alpha.test")
    for scope in ("all", f"d{alpha.pk}", f"m{bob.pk}"):
        data = {"pattern": "x@far.test", "action": "allow", "scope": scope}
        assert browse("carol").post("/senders/", data).status_code == 400
    row = keep("carol@alpha.test").recipients.get()
    for scope in ("domain", "all"):
        assert browse("carol").post(f"/m/{row.pk}/sender/", {"action": "block", "scope": scope}).status_code == 404
    assert not SenderRule.objects.exists()


def test_someone_who_left_sees_nothing(acme):
    keep("bob@alpha.test", subject=SECRET)
    client = browse("bob")
    User.objects.filter(email="bob@alpha.test").update(is_active=False)
    assert client.get("/").status_code == 302


def test_ids_that_are_none_are_404(acme):
    client = browse("alice")
    for path in ("/?mailbox=x", "/?domain=1e9", f"/m/{'9' * 30}/", "/?mailbox=" + "9" * 30, "/senders/?after=x"):
        assert client.get(path).status_code == 404, path
    assert client.post("/act/", {"id": "x", "action": "release"}).status_code == 404
    assert client.post("/report/", {"mailbox": "٣"}).status_code == 404
