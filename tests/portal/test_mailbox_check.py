"""The domain's page: which addresses are taken, and what the mail server says to its admin's question."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.utils import timezone

from portal.tenants.models import MailDomain
from portal.web import mailbox_check
from quarantine.causes import Cause
from quarantine.platform.models import HourlyCount
from tests.portal.browsing import browse, get_text
from tests.smtp_sink import Sink

NO_ANSWER = "It did not answer as a mail server does."
pytestmark = pytest.mark.django_db


@pytest.fixture
def server(acme) -> Iterator[Sink]:
    """Alpha's mail server, which knows new@ and postmaster@."""
    cache.clear()
    with Sink() as sink:
        sink.on("RCPT", lambda line: None if "new@" in line or "postmaster@" in line else "550 5.1.1 <b>unknown</b>")
        MailDomain.objects.filter(name="alpha.test").update(server_port=sink.port)
        yield sink
    assert not any(line.startswith("DATA") for line in sink.commands)


def get_page(name: str = "alpha.test") -> str:
    return f"/domains/{MailDomain.objects.get(name=name).pk}/"


def ask(address: str, *, who: str = "dora") -> str:
    """The page that an admin sees after asking."""
    response = browse(who).post(f"{get_page()}check/", {"address": address}, follow=True)
    return get_text(response)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("New", "The mail server takes mail for new@alpha.test. It said: 250 2.1.5 ok"),
        ("new@alpha.test", "The mail server takes mail for new@alpha.test."),
        ("nobody", "The mail server has no mailbox nobody@alpha.test. It said: 550 5.1.1 &lt;b&gt;unknown&lt;/b&gt;"),
    ],
)
def test_an_admin_asks_the_mail_server(server, address, sentence):
    assert sentence in ask(address)
    assert not [line for line in server.commands if line.startswith("MAIL") and line != "MAIL FROM:<>"]


def test_a_server_that_takes_everything_is_told_of(server):
    server.off("RCPT")
    assert "asking it tells nothing, so every address of the domain is taken" in ask("new")


def test_a_server_that_is_down_is_told_of(server):
    server.stop()
    assert f"did not say whether it has the mailbox new@alpha.test. {NO_ANSWER}<" in ask("new")
    server.start()


def test_a_server_that_says_nothing_holds_the_page_for_a_while_only(server, monkeypatch):
    monkeypatch.setattr(mailbox_check, "ANSWER_SECONDS", 0.3)
    server.on("BANNER", "220-and so on")
    assert f"{NO_ANSWER}<" in ask("new")


@pytest.mark.parametrize("banner", ["HTTP/1.1 400 Bad Request", "SSH-2.0-x", "554 5.7.1 not you"])
def test_what_listens_there_instead_is_not_told(server, caplog, banner):
    """Or else the page would tell which ports of our own network are open, and what they say."""
    server.on("BANNER", banner)
    text = ask("new")
    assert f"{NO_ANSWER}<" in text
    assert banner not in text
    assert "mailbox_check_no_answer domain=alpha.test" in caplog.text


def test_a_server_that_has_no_time_is_told_of(server):
    server.off("RCPT")
    server.on("RCPT", "450 4.2.1 later")
    assert "did not say whether it has the mailbox new@alpha.test: 450 4.2.1 later" in ask("new")


@pytest.mark.parametrize("address", ["", "new@beta.test", "a b", "new@alpha.test\r\nDATA", "x" * 400])
def test_only_addresses_of_the_domain_are_asked_for(server, address):
    response = browse("dora").post(f"{get_page()}check/", {"address": address})
    assert response.status_code == 400
    assert 'class="errorlist"' in get_text(response)
    assert server.connections == 0


def test_the_server_is_not_asked_too_often(server, monkeypatch):
    monkeypatch.setattr(mailbox_check, "MAX_OF_DOMAIN", 2)
    for _ in range(2):
        assert "takes mail for new@alpha.test" in ask("new")
    assert "was asked very often just now" in ask("new", who="alice")
    assert server.connections == 2


def test_a_get_asks_nothing(server):
    assert browse("dora").get(f"{get_page()}check/").status_code == 405
    browse("dora").get(get_page())
    assert server.connections == 0


def test_the_page_says_how_often_the_server_could_not_be_asked(acme):
    now, row = timezone.now(), MailDomain.objects.get(name="alpha.test")
    fields = {"schema": "sp_acme", "domain_id": row.pk, "kind": "deferred", "cause": Cause.UNVERIFIED.value}
    for age, instance, count in ((1, "a", 3), (1, "b", 4), (3, "a", 5), (30, "a", 100)):
        hour = (now - timedelta(hours=age)).replace(minute=0, second=0, microsecond=0)
        HourlyCount.objects.create(hour=hour, instance=instance, count=count, **fields)
    other = fields | {"cause": Cause.OVERLOAD.value}
    HourlyCount.objects.create(hour=now, instance="a", count=50, **other)
    HourlyCount.objects.create(hour=now, instance="a", count=70, **fields | {"domain_id": row.pk + 1000})
    text = get_text(browse("dora").get(get_page()))
    assert "senders of mail for 12 recipients were told to try again" in text
    assert "were told to try again" not in get_text(browse("alice").get(get_page("beta.test")))
