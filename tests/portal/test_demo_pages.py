"""The demo's page of arrived mail: demo only, by provider, harmless whatever arrived."""

from __future__ import annotations

import pytest
from django.test import Client

from portal.stack.demo.maildir import Maildirs
from portal.tenants.models import MailDomain
from portal.web.views import demo

DIGEST = (
    b"From: =?utf-8?q?Acme_Quarant=C3=A4ne?= <report@acme.test>\r\nSubject: 3 messages <held>\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/alternative; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nplain <text>\r\n'
    b"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    b'<html><head></head><body><script>alert(1)</script><a href="http://acme.localhost/d/x/">Release</a></body></html>'
    b"\r\n--b--\r\n"
)


@pytest.fixture
def maildirs(db, settings, tmp_path, monkeypatch) -> Maildirs:
    """Two of the cast's domains as the demo's."""
    settings.DEMO, settings.HOME = True, tmp_path
    settings.ROOT_URLCONF = settings.PUBLIC_SCHEMA_URLCONF = "tests.portal.demo_urls"
    domains = ("alpha.test", "gamma.test")
    root = tmp_path / "demo" / "mail"
    monkeypatch.setattr(demo, "get_maildirs", lambda shown=domains: Maildirs(root, shown))
    return Maildirs(root, domains)


@pytest.fixture
def acme() -> Client:
    return Client(headers={"host": "acme.localhost"})


@pytest.fixture
def globex() -> Client:
    return Client(headers={"host": "globex.localhost"})


def test_list_shows_the_mail_of_the_providers_domains_only(maildirs, acme, globex):
    maildirs.deliver("bob@alpha.test", DIGEST)
    maildirs.deliver("gus@gamma.test", DIGEST.replace(b"3 messages", b"5 messages"))
    at_acme = acme.get("/demo/mail/").content.decode()
    assert "bob@alpha.test" in at_acme
    assert "3 messages &lt;held&gt;" in at_acme
    assert "Acme Quarantäne" in at_acme
    assert "gus@gamma.test" not in at_acme
    assert "5 messages" in globex.get("/demo/mail/").content.decode()
    everywhere = Client(headers={"host": "platform.localhost"}).get("/demo/mail/").content.decode()
    assert "bob@alpha.test" in everywhere
    assert "gus@gamma.test" in everywhere


def test_message_shows_text_escaped_and_html_in_a_sandbox(maildirs, acme):
    name = maildirs.deliver("bob@alpha.test", DIGEST).name
    page = acme.get(f"/demo/mail/bob@alpha.test/{name}/").content.decode()
    assert "plain &lt;text&gt;" in page
    assert "<script>alert" not in page
    assert f'sandbox="{demo.SANDBOX}"' in page
    assert "allow-scripts" not in page
    assert "allow-same-origin" not in page


def test_html_of_a_mail_runs_no_script_and_loads_nothing(maildirs, acme):
    name = maildirs.deliver("bob@alpha.test", DIGEST).name
    response = acme.get(f"/demo/mail/bob@alpha.test/{name}/html/")
    policy = response["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert f"sandbox {demo.SANDBOX}" in policy
    assert response["X-Frame-Options"] == "SAMEORIGIN"
    assert '<head><base target="_top">' in response.content.decode()
    assert 'href="http://acme.localhost/d/x/"' in response.content.decode()


def test_logo_that_came_along_is_shown(maildirs, acme):
    related = DIGEST.replace(b"<script>alert(1)</script>", b'<img src="cid:logo@acme.localhost">').replace(
        b"--b--", b"--b\r\nContent-Type: image/png\r\nContent-ID: <logo@acme.localhost>\r\n\r\n\x89PNG\r\n--b--"
    )
    name = maildirs.deliver("bob@alpha.test", related).name
    html = acme.get(f"/demo/mail/bob@alpha.test/{name}/html/").content.decode()
    assert '<img src="data:image/png;base64,iVBORw==">' in html


def test_source_is_the_octets_as_plain_text(maildirs, acme):
    name = maildirs.deliver("bob@alpha.test", DIGEST + b"\xff\0").name
    response = acme.get(f"/demo/mail/bob@alpha.test/{name}/source/")
    assert response.content == DIGEST + b"\xff\0"
    assert response["Content-Type"].startswith("text/plain")


def test_newest_mail_is_first(maildirs, acme):
    for number in range(3):
        maildirs.deliver("bob@alpha.test", b"Subject: number %d\r\n\r\n" % number)
    page = acme.get("/demo/mail/bob@alpha.test/").content.decode()
    assert page.index("number 2") < page.index("number 1") < page.index("number 0")


@pytest.mark.parametrize("raw", [b"", b"\0\xff\xfe", b"Subject: =?broken?x?\r\n", b"<html>" * 1000, b"\r\n\r\n\r\n"])
def test_any_octets_can_be_looked_at(maildirs, acme, raw):
    name = maildirs.deliver("bob@alpha.test", raw).name
    assert acme.get("/demo/mail/").status_code == 200
    assert acme.get(f"/demo/mail/bob@alpha.test/{name}/").status_code == 200


def test_nothing_else_can_be_read(maildirs, acme, tmp_path):
    name = maildirs.deliver("gus@gamma.test", DIGEST).name
    maildirs.deliver("bob@alpha.test", DIGEST)
    (tmp_path / "secret_key").write_text("secret")
    (tmp_path / "demo" / "mail" / "bob@alpha.test" / "new" / "1234567890.link.demo").symlink_to(tmp_path / "secret_key")
    for path in (
        f"gus@gamma.test/{name}/",
        f"bob@alpha.test/{name}/",
        "bob@alpha.test/1234567890.link.demo/",
        "bob@alpha.test/..%2F..%2F..%2F..%2Fsecret_key/",
        "..%2F..%2Fsecret_key/",
        "../../secret_key",
        "nobody@alpha.test/",
    ):
        assert acme.get(f"/demo/mail/{path}").status_code == 404, path


def test_page_only_reads(maildirs, acme):
    assert acme.post("/demo/mail/").status_code == 405


def test_domain_that_is_not_of_the_demo_is_not_shown(maildirs, acme):
    MailDomain.objects.filter(name="alpha.test").update(name="elsewhere.test")
    maildirs.deliver("bob@alpha.test", DIGEST)
    assert "bob@alpha.test" not in acme.get("/demo/mail/").content.decode()


@pytest.mark.parametrize("path", ["", "bob@alpha.test/", "bob@alpha.test/1234567890.x.demo/"])
def test_page_is_off_without_the_demo(maildirs, settings, acme, path):
    maildirs.deliver("bob@alpha.test", DIGEST)
    settings.DEMO = False
    assert acme.get(f"/demo/mail/{path}").status_code == 404


def test_at_no_providers_hostname_a_cookie_of_another_program_harms_nothing(maildirs):
    """Browsers send cookies to every port of a host, and `session` is a common name."""
    client = Client(HTTP_HOST="127.0.0.1")
    client.cookies["session"] = "a" * 32
    assert client.get("/demo/mail/").status_code == 200
