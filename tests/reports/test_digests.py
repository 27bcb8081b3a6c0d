"""What a report says and how it is made, read from the octets that were handed to the courier."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from email.headerregistry import AddressHeader
from email.utils import parseaddr
from html.parser import HTMLParser

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from portal.tenants.models import ServiceProvider
from portal.tenants.people.models import Mailbox, MailboxAlias
from quarantine.models import Category
from quarantine.queries import read_raw
from reports import digests, links
from reports.models import Digest, DigestLink
from tests.reports.held import CODE, HOUR, LINK, get_domain, get_mailbox, hold, read_html, read_mail, read_text

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)
pytestmark = pytest.mark.usefixtures("acme")


class Page(HTMLParser):
    """The links, pictures and words of an HTML report."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names += [value for name, value in attrs if tag == "a" and name == "aria-label"]
        self.links += [value for name, value in attrs if name == "href"]
        self.sources += [value for name, value in attrs if name in {"src", "background"}]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.words += " " + " ".join(data.split())


def send(address: str = "bob@alpha.test") -> Digest:
    """The daily report of one mailbox, due now."""
    mailbox = get_mailbox(address)
    created = timezone.now() - timedelta(days=2)
    Mailbox.objects.exclude(pk=mailbox.pk).update(next_digest_at=timezone.now() + timedelta(days=1))
    Mailbox.objects.filter(pk=mailbox.pk).update(next_digest_at=timezone.now(), created_at=created)
    assert digests.send_due() == 1
    return mailbox.digests.get(kind="daily")


def hold_before(**fields):
    return hold(get_mailbox(), at=timezone.now() - HOUR, **fields)


def test_headers_name_the_provider_and_ask_for_no_answer():
    hold_before()
    digest = send()
    mail = read_mail(digest)
    assert mail["From"] == "Acme IT quarantine <quarantine@acme.localhost>"
    assert mail["To"] == "bob@alpha.test"
    assert mail["Subject"] == "Acme IT: 1 message in quarantine"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[0-9a-f]{32}@acme\.localhost>", mail["Message-ID"])
    assert mail["Date"].datetime == digest.until.replace(microsecond=0)
    assert mail["List-Id"] is None
    assert digest.message.sender == ""
    assert not mail.defects


def test_the_list_of_mail_shows_whom_a_report_is_from():
    ServiceProvider.objects.filter(slug="acme").update(name='Ångström & "Söhne", a name so long that it is folded')
    message = send().message
    name, address = parseaddr(message.header_from)
    assert name == 'Ångström & "Söhne", a name so long that it is folded quarantine'
    assert address == "quarantine@acme.localhost"


def test_parts_are_text_and_html_in_lines_that_may_travel():
    hold_before(subject="ünïcode " * 60)
    raw = read_raw(send().message)
    assert raw.isascii()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    mail = read_mail(Digest.objects.get())
    assert mail.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    assert "ünïcode ünïcode" in mail.get_body(("plain",)).get_content()


def test_each_item_tells_sender_subject_date_and_verdict_and_has_its_own_link():
    get_domain().__class__.objects.filter(name="alpha.test").update(time_zone="Asia/Kathmandu")
    first = hold_before(subject="Cheap watches", header_from="Watch Shop <shop@watches.test>", score=8.42)
    second = hold_before(subject="Your parcel", header_from="post@parcel.test", category=Category.SURE_SPAM)
    digest = send()
    local = (first.received_at + timedelta(hours=5, minutes=45)).strftime("%H:%M")
    for body in (read_text(digest), Page(read_html(digest)).words):
        for words in ("Cheap watches", "Watch Shop", "<shop@watches.test>", "Your parcel", local, "Asia/Kathmandu"):
            assert words in body
        assert "Spam, score 8.4" in body
        assert "Sure spam, score 7.5" in body
        assert "2 messages are held for you" in body
        assert "Total: 2" in body
    tokens = LINK.findall(read_text(digest))
    assert LINK.findall(" ".join(Page(read_html(digest)).links)) == tokens
    assert [links.find_link(token).recipient_id for token in tokens] == [second.pk, first.pk]  # the newest first


def test_each_release_link_has_a_name_of_its_own():
    hold_before(subject='Your "invoice" <7>', header_from="Ann <ann@far.test>")
    hold_before(subject="", header_from="<bo@far.test>")
    assert sorted(Page(read_html(send())).names) == [
        "Release “(no subject)” from bo@far.test",
        'Release “Your "invoice" <7>” from Ann',
    ]


def test_the_code_beside_an_item_is_the_one_that_is_right():
    hold_before()
    hold_before()
    digest = send()
    text = read_text(digest)
    for token, code in zip(LINK.findall(text), CODE.findall(text), strict=True):
        assert code in Page(read_html(digest)).words
        assert links.check_code(links.find_link(token), code.replace(" ", "")) is links.CodeAnswer.RIGHT


def test_neither_token_nor_code_is_stored():
    hold_before()
    text = read_text(send())
    token, code = LINK.findall(text)[0], CODE.findall(text)[0].replace(" ", "")
    stored = json.dumps([str(value) for row in DigestLink.objects.values() for value in row.values()])
    assert token not in stored
    assert code not in DigestLink.objects.get().code_hash
    assert bytes(DigestLink.objects.get().token_hash) not in {token.encode(), code.encode()}


def test_a_link_ends_with_its_item():
    item = hold_before()
    get_domain().__class__.objects.filter(name="alpha.test").update(retention_days=12)
    send()
    assert DigestLink.objects.get().expires_at == item.received_at + timedelta(days=12)


def test_a_hundred_are_listed_and_the_rest_counted():
    for _ in range(103):
        hold_before()
    digest = send()
    assert (digest.held, digest.links.count()) == (103, 100)
    for body in (read_text(digest), Page(read_html(digest)).words):
        assert "103 messages are held for you" in body
        assert "and 3 more: open the quarantine" in " ".join(body.split())
        assert "Total: 103" in body
    assert len(LINK.findall(read_text(digest))) == 100
    assert len(read_html(digest).encode()) < 102_000  # Gmail cuts what is longer
    assert read_mail(digest)["Subject"] == "Acme IT: 103 messages in quarantine"


def test_a_virus_is_listed_without_a_link():
    hold_before(category=Category.VIRUS, subject="Invoice")
    digest = send()
    assert digest.held == 1
    assert not digest.links.exists()
    for body in (read_text(digest), Page(read_html(digest)).words):
        assert "Invoice" in body
        assert "cannot be released" in body
    assert not LINK.findall(read_text(digest) + read_html(digest))


def test_an_empty_report_says_so():
    digest = send()
    for body in (read_text(digest), Page(read_html(digest)).words):
        assert "Nothing was held for you" in body
        assert "http" not in Page(read_html(digest)).words
    assert read_mail(digest)["Subject"] == "Acme IT: nothing in your quarantine report"


def test_the_report_opens_the_quarantine_and_loads_nothing():
    hold_before()
    page = Page(read_html(send()))
    portal = "http://acme.localhost:8000/"
    assert portal in page.links
    assert all(link.startswith(portal) for link in page.links)
    assert page.sources == []
    assert not page.tags & {"script", "link", "iframe", "form", "object", "svg"}
    assert "url(" not in read_html(Digest.objects.get())


def test_the_brand_is_the_providers():
    ServiceProvider.objects.filter(slug="acme").update(
        colour="#ffd400", logo=PNG, logo_type="image/png", support="help@acme.test", name='Grün & "Söhne", IT'
    )
    hold_before()
    mail = read_mail(send())
    related = list(mail.iter_parts())[1]
    html, logo = related.iter_parts()
    assert related.get_content_type() == "multipart/related"
    assert logo.get_content() == PNG
    assert Page(html.get_content()).sources == ["cid:" + logo["Content-ID"].strip("<>")]
    assert 'bgcolor="#ffd400"' in html.get_content()
    assert "color:#000000" in html.get_content()  # black on yellow
    assert "help@acme.test" in mail.get_body(("plain",)).get_content()
    assert isinstance(mail["From"], AddressHeader)
    assert mail["From"].addresses[0].display_name == 'Grün & "Söhne", IT quarantine'
    assert mail["Subject"] == 'Grün & "Söhne", IT: 1 message in quarantine'


HOSTILE = "x\r\nBcc: victim@evil.test\nX-Evil: 1\x0bY\u2028Z\u202eand\x1b]0;back"


def test_hostile_text_makes_no_header_and_no_line():
    ServiceProvider.objects.filter(slug="acme").update(name="Acme" + HOSTILE[:60], support=HOSTILE)
    hold_before(subject=HOSTILE, header_from=HOSTILE)
    digest = send()
    mail = read_mail(digest)
    ours = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress"}
    assert sorted(mail.keys()) == sorted(ours | {"Content-Type", "MIME-Version"})
    [line] = [line for line in read_text(digest).splitlines() if line.startswith("1.")]
    assert "Bcc: victim@evil[.]test X-Evil: 1 Y Z and ]0;back" in line


@pytest.mark.parametrize("field", ["subject", "header_from"])
def test_markup_of_strangers_is_only_text(field):
    hold_before(**{field: '"><img src=x onerror=alert(1)><script>1</script>{{ 7|add:7 }}{% now "Y" %} <a@b.test>'})
    digest = send()
    page = Page(read_html(digest))
    assert not page.tags & {"img", "script"}
    assert "<img src=x onerror=alert(1)><script>" in page.words
    assert "{{ 7|add:7 }}" in page.words
    assert "{{ 7|add:7 }}" in read_text(digest)


def test_no_address_of_the_web_in_held_mail_is_a_link():
    hold_before(
        subject="Log in at https://evil.test/login or www.evil.test",
        header_from='"http://bank.test" <service@evil.test>',
    )
    digest = send()
    for body in (read_text(digest), Page(read_html(digest)).words):
        assert "hxxps[:]//evil[.]test/login or www[.]evil[.]test" in body
        assert "hxxp[:]//bank[.]test" in body
        assert "service@evil.test" in body
        assert "//evil.test" not in body


def test_mail_to_an_alias_says_so():
    bob = get_mailbox()
    MailboxAlias.objects.create(mailbox=bob, address="sales@alpha.test")
    hold_before(address="sales@alpha.test")
    digest = send()
    assert "To: sales@alpha.test" in read_text(digest)
    assert "to sales@alpha.test" in Page(read_html(digest)).words


def test_another_mailbox_is_never_in_the_report():
    hold(get_mailbox("carol@alpha.test"), at=timezone.now() - HOUR, subject="MARK of carol")
    hold_before(subject="MARK of bob")
    digest = send()
    assert "MARK of bob" in read_text(digest)
    assert "MARK of carol" not in read_text(digest) + read_html(digest)


def test_send_digest_reports_at_once_and_says_what_it_did(capsys):
    MailboxAlias.objects.create(mailbox=get_mailbox(), address="sales@alpha.test")
    hold_before()
    call_command("send_digest", "Sales@alpha.test", "--json")
    made = json.loads(capsys.readouterr().out)
    digest = Digest.objects.get(kind="on_demand")
    assert made == {"mailbox": "bob@alpha.test", "state": "sent", "held": 1, "trace_id": digest.message.trace_id}
    assert "sent on request" in read_text(digest)
    call_command("send_digest", "bob@alpha.test")
    assert capsys.readouterr().out.startswith("Report for bob@alpha.test: 1 held, trace ")


@pytest.mark.parametrize("address", ["nobody@alpha.test", "bob@elsewhere.test", "bob"])
def test_send_digest_refuses_what_is_no_mailbox(address):
    with pytest.raises(CommandError, match=re.escape(address)):
        call_command("send_digest", address)
