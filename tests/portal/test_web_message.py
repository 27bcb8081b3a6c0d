"""One message's page: why, what became of it, and a look inside that harms nobody."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.tenants.models import ServiceProvider
from portal.tenants.people.models import SenderRule
from portal.web.preview import make_visible
from portal.web.sanitise import TAGS, extract_text, sanitise_html
from quarantine.models import Content, Event, Message, Recipient, State
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text

pytestmark = pytest.mark.django_db
ATTACK = '"><img src=x onerror=alert(1)>'
LETTER = (
    b"From: Ann <ann@far.test>\r\nSubject: Hello\r\nX-Odd: \x00\x1b]0;title\x07\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nDear <Bob>, \xe2\x80\xaegood day\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>Dear <b>Bob</b> <a href='http://far.test/x?a=1&b=2'>click</a></p>\r\n"
    b"--b\r\nContent-Type: application/pdf; name=bill.pdf\r\nContent-Disposition: attachment\r\n\r\n%PDF\r\n--b--\r\n"
)


def keep_letter(raw: bytes = LETTER, **fields) -> int:
    return keep("bob@alpha.test", raw=raw, **fields).recipients.get().pk


def test_the_page_says_why_and_what_became_of_it(acme):
    finding = {"check": "classifier", "points": 4.25, "text": "Reads like spam."}
    message = keep("bob@alpha.test", subject="Cheap", findings=[finding], score=7.5, policy_release=3)
    Event.objects.create(
        message=message, recipient=message.recipients.get(), kind="held", text="kept here", actor="x@y.test"
    )
    Message.objects.filter(pk=message.pk).update(ptr_status="mismatch", ptr_name="host.far.test")
    text = get_text(browse("bob").get(f"/m/{message.recipients.get().pk}/"))
    for part in ("Cheap", "Reads like spam.", "+4.2", "score 7.5", "policy release 3", "192.0.2.25", "host.far.test",
                 "does not lead back", "Held", "kept here", "x@y.test", message.trace_id):  # fmt: skip
        assert part in text


def test_the_trace_of_one_recipient_is_not_shown_to_another(acme):
    message = keep("bob@alpha.test", "carol@alpha.test")
    carols = message.recipients.get(address="carol@alpha.test")
    Event.objects.create(message=message, recipient=carols, kind="released", actor="carol@alpha.test")
    text = get_text(browse("bob").get(f"/m/{message.recipients.get(address='bob@alpha.test').pk}/"))
    assert "carol@alpha.test" not in text
    assert "carol@alpha.test" in get_text(browse("dora").get(f"/m/{carols.pk}/"))


def test_text_headers_and_attachments_are_shown_escaped(acme):
    pk = keep_letter()
    client = browse("bob")
    text = get_text(client.get(f"/m/{pk}/"))
    assert "Dear &lt;Bob&gt;, \N{REPLACEMENT CHARACTER}good day" in text
    assert "bill.pdf" in text
    assert "application/pdf" in text
    headers = get_text(client.get(f"/m/{pk}/?look=headers"))
    assert "X-Odd: ␀␛]0;title␇" in headers


def test_html_comes_in_a_sandbox_with_a_policy_of_its_own(acme):
    pk = keep_letter()
    client = browse("bob")
    page = client.get(f"/m/{pk}/?look=html")
    assert f'<iframe class="frame" sandbox src="/m/{pk}/html/"' in get_text(page)
    assert "frame-ancestors 'none'" in page["Content-Security-Policy"]
    frame = client.get(f"/m/{pk}/html/")
    policy = frame["Content-Security-Policy"]
    assert policy.startswith("sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "allow-" not in policy
    assert frame["X-Frame-Options"] == "SAMEORIGIN"
    text = get_text(frame)
    assert "<b>Bob</b>" in text
    assert "href" not in text
    assert "[http://far.test/x?a=1&amp;b=2]" in text


def test_the_octets_can_be_saved_and_never_shown(acme):
    pk = keep_letter()
    response = browse("bob").get(f"/m/{pk}/raw/")
    assert response.content == LETTER
    assert response["Content-Type"] == "message/rfc822"
    assert response["Content-Disposition"].startswith("attachment;")
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response["Content-Security-Policy"]


def test_content_that_is_gone_is_said_to_be(acme):
    pk = keep_letter(state=State.DELIVERED)
    Content.objects.all().delete()
    client = browse("bob")
    assert "not kept any more: it was handed to the mail server" in get_text(client.get(f"/m/{pk}/"))
    assert client.get(f"/m/{pk}/html/").status_code == 200
    assert client.get(f"/m/{pk}/raw/").status_code == 404


def test_the_buttons_act_and_come_back(acme):
    pk = keep_letter()
    client = browse("bob")
    response = client.post("/act/", {"id": pk, "message": "1", "action": "release"}, follow=True)
    assert response.redirect_chain == [(f"/m/{pk}/", 302)]
    assert "1 message is being released." in get_text(response)
    assert Recipient.objects.get(pk=pk).state == State.RELEASING
    assert 'value="release"' not in get_text(response)


@pytest.mark.parametrize(
    ("who", "scope", "whole", "wanted"),
    [
        ("bob", "mailbox", "0", ("spam@far.test", True, False)),
        ("bob", "mailbox", "1", ("@far.test", True, False)),
        ("dora", "domain", "0", ("spam@far.test", False, True)),
        ("alice", "all", "1", ("@far.test", False, False)),
    ],
)
def test_the_sender_is_allowed_as_far_as_one_may(acme, who, scope, whole, wanted):
    pk = keep_letter()
    browse(who).post(f"/m/{pk}/sender/", {"action": "allow", "scope": scope, "whole": whole})
    rule = SenderRule.objects.get()
    assert (rule.pattern, rule.mailbox_id is not None, rule.domain_id is not None) == wanted


FIELDS = ("subject", "header_from", "helo", "ptr_name", "message_id", "sender")


def test_nothing_of_the_mail_is_unescaped_anywhere(acme):
    """X20, in every field that a stranger writes."""
    raw = f"Subject: x\r\nContent-Type: application/x; name='{ATTACK}'\r\nX: {ATTACK}\r\n\r\n{ATTACK}".encode()
    finding = {"check": ATTACK, "points": ATTACK, "text": ATTACK}
    message = keep(
        f"bob{ATTACK}@alpha.test", raw=raw, findings=[finding], reply=ATTACK, state=State.HELD, changed_by=ATTACK
    )
    Message.objects.filter(pk=message.pk).update(**dict.fromkeys(FIELDS, ATTACK))
    pk = message.recipients.get().pk
    Event.objects.create(message=message, kind="<b>k</b>", text=ATTACK, actor=ATTACK)
    client = browse("alice")
    asked = client.post("/act/", {"id": pk, "action": "delete", "q": ATTACK, "extra": ATTACK})
    pages = [client.get(path) for path in ("/?show=all", f"/?q={ATTACK}", f"/m/{pk}/", f"/m/{pk}/?look=headers",
                                           f"/m/{pk}/?look=html", f"/trace/?q={message.trace_id}", f"/trace/{pk}/",
                                           f"/senders/?q={ATTACK}", f"/mailboxes/?q={ATTACK}", f"/domains/?q={ATTACK}",
                                           f"/help/reverse-dns?ip={ATTACK}", f"/trace/?q={ATTACK}")]  # fmt: skip
    for page in [*pages, asked]:
        assert page.status_code == 200
        assert "<img src=x" not in get_text(page)
        assert "<b>k</b>" not in get_text(page)
    assert "&lt;img src=x" in get_text(pages[0])
    assert "&lt;img src=x" in get_text(pages[2])


def test_templates_in_mail_stay_words(acme):
    """X31."""
    for text in ("{{7*7}}", "{% now 'Y' %}", "%(x)s", "{0.__class__}", "${7*7}"):
        pk = keep_letter(subject=text)
        page = get_text(browse("bob").get(f"/m/{pk}/"))
        assert "49" not in page.split("<title>")[1].split("</title>")[0]


HARM = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src=http://c.test/a>",
    "<img src=//c.test/a>",
    "<img srcset='http://c.test/a 2x'>",
    "<img src='data:image/svg+xml;base64,PHN2Zz4='>",
    "<img src='data:text/html,<script>alert(1)</script>'>",
    "<svg><animate onbegin=alert(1)></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></table></mtext></math>",
    "<style>@import url(http://c.test/a)</style>",
    "<p style='background:url(http://c.test/a)'>",
    "<p style='background:u\\72l(http://c.test/a)'>",
    "<p style=\"background-color:red;font:1px/1 'x';background-image:image-set('http://c.test/a' 1x)\">",
    "<p style='color:var(--x, url(http://c.test/a))'>",
    "<p style='width:expression(alert(1))'>",
    "<p style='position:fixed;top:0'>",
    "<body background=http://c.test/a>",
    "<table background=http://c.test/a>",
    "<link rel=stylesheet href=http://c.test/a>",
    "<meta http-equiv=refresh content='0;url=http://c.test'>",
    "<base href=http://c.test>",
    "<iframe src=http://c.test>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=http://c.test/a></object><embed src=http://c.test/a>",
    "<video poster=http://c.test/a src=http://c.test/b><audio src=http://c.test/c>",
    "<form action=http://c.test><input type=image src=http://c.test/a><button formaction=javascript:alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href=' java\nscript:alert(1)'>x</a>",
    "<a href=http://c.test ping=http://c.test/p target=_top download>x</a>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[><img src=x onerror=alert(1)>]]>",
    "<div title='\"><script>alert(1)</script>'>x</div>",
    "<span class='link' onclick=alert(1) id=main>x</span>",
    "<template><script>alert(1)</script></template>",
    "<p lang='\"><img src=x onerror=alert(1)>'>",
]
KNOWN = {"align", "alt", "bgcolor", "border", "cellpadding", "cellspacing", "class", "color", "colspan", "dir", "face",
         "height", "lang", "rowspan", "size", "src", "start", "style", "title", "type", "valign", "width"}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would be told."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def check_harmless(html: str) -> None:
    for tag, attributes in Reader(html).tags:
        assert tag in TAGS - {"a"}
        assert set(attributes) <= KNOWN
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        style = attributes.get("style") or ""
        assert not re.search(r"url|@|\\|position|display|var\(|expression|image", style), style


@pytest.mark.parametrize("html", HARM)
def test_harmful_html_is_left_out(html):
    cleaned = sanitise_html(f"<p>before</p>{html}<p>after</p>")
    check_harmless(cleaned)
    assert cleaned.startswith("<p>before</p>")


def test_html_keeps_what_makes_it_readable():
    html = '<table border="1"><tr><td style="color: red; background: #fff" colspan="2">a &amp; b</td></tr></table>'
    cleaned = sanitise_html(html)
    assert '<td colspan="2" style="color:red"' in cleaned.replace("color: red", "color:red") or "color:red" in cleaned
    assert "a &amp; b" in cleaned
    png = "data:image/png;base64,iVBORw0KGgo="
    assert png in sanitise_html(f'<img src="{png}" alt="x">')


@given(st.text(alphabet="<>/=\"' abimgscrptxonerror:;&#!-", max_size=300))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_in_only_allowed_tags_come_out(text):
    check_harmless(sanitise_html(text))


SLOW = {
    "depth": "<div>" * 200_000,
    "formatting": "<a href='x'>" * 100_000,
    "tags": "<" * 1_000_000,
    "comments": "<!--" * 200_000,
    "styles": "<p style='" + "a:b;" * 200_000,
    "references": "&a" * 400_000,
    "attributes": "<p " + " ".join(f"a{number}=1" for number in range(50_000)) + ">",
}


@pytest.mark.parametrize("html", SLOW.values(), ids=SLOW.keys())
def test_html_made_to_be_slow_is_read_in_part(html):
    """Unbounded, each of these takes the parser from many seconds to hours."""
    assert len(sanitise_html(f"<p>before</p>{html}")) < 2_000_000
    assert extract_text(f"<p>before</p>{html}").startswith("before")


def test_text_is_made_of_html_where_there_is_no_other():
    assert (
        extract_text("<h1>Offer</h1><p>Dear   Bob,<br>buy</p><script>x</script><td>1</td>")
        == "Offer\n\nDear Bob,\nbuy\n1"
    )


def test_what_steers_a_screen_is_made_visible():
    assert (
        make_visible("a\x00b\x1b[2Jc\u202ed\x85e\tf\r\ng")
        == "a␀b␛[2Jc\N{REPLACEMENT CHARACTER}d\N{REPLACEMENT CHARACTER}e\tf\ng"
    )


def test_a_report_of_ours_is_not_said_to_be_judged(acme):
    message = keep("bob@alpha.test", state="delivered")
    Message.objects.filter(pk=message.pk).update(kind="digest")
    text = get_text(browse("bob").get(f"/m/{message.recipients.get().pk}/"))
    assert "We made this mail ourselves" in text
    assert "policy release 0" not in text


@pytest.mark.parametrize(("who", "sees"), [("bob", True), ("dora", False), ("alice", False)])
def test_a_report_of_ours_is_read_by_the_owner_of_its_mailbox_only(acme, who, sees):
    pk = keep_letter(state="delivering")
    Message.objects.update(kind="digest")
    client = browse(who)
    pages = [client.get(f"/m/{pk}/{look}") for look in ("", "?look=headers", "?look=html", "html/", "raw/")]
    assert [page.status_code for page in pages] == [200, 200, 200, *([200, 200] if sees else [404, 404])]
    text = get_text(pages[0])
    assert ("Dear &lt;Bob&gt;" in text) == sees
    assert ("X-Odd" in get_text(pages[1])) == sees
    assert ("only the mailbox's owner can look inside" in text) != sees
    assert (f"/m/{pk}/raw/" in text) == sees


@pytest.mark.parametrize(
    ("who", "told"),
    [
        ("dora", '/reverse-dns/?network=192.0.2.25&domain={domain}#grant">Let this server in for a time</a>'),
        ("alice", '/reverse-dns/?network=192.0.2.25&domain={domain}#grant">Let this server in for a time</a>'),
        ("bob", "Only an admin of alpha.test can let the sending server in for a time: ask yours, or 0800 1234, and"),
    ],
)
@pytest.mark.parametrize("state", [State.REFUSED, State.QUARANTINED])
def test_where_a_rule_for_the_sender_does_not_help_what_does_is_offered(acme, who, told, state):
    """Reverse DNS is asked before the sender is: an allow rule changes nothing, an exception for the server does."""
    ServiceProvider.objects.filter(slug="acme").update(support="0800 1234")
    finding = {"check": "reverse_dns", "points": 0, "text": "no PTR", "category": "policy", "action": "quarantine"}
    by_name = keep("bob@alpha.test", state=state, cause="reverse_dns" if state == State.REFUSED else "",
                   findings=[finding]).recipients.get()  # fmt: skip
    Message.objects.update(ptr_status="none")
    other = keep("bob@alpha.test", findings=[{"check": "reverse_dns", "points": 2, "text": "no PTR"}]).recipients.get()
    client = browse(who)
    for page in (f"/m/{by_name.pk}/", f"/trace/{by_name.pk}/")[: 2 if state == State.REFUSED else 1]:
        assert told.format(domain=by_name.domain_id) in unescape(get_text(client.get(page)))
    assert 'value="allow"' not in get_text(client.get(f"/m/{by_name.pk}/"))
    assert 'value="allow"' in get_text(client.get(f"/m/{other.pk}/"))


@pytest.mark.parametrize(
    ("state", "size", "title", "content"),
    [
        (
            State.REFUSED,
            0,
            "(refused before it was sent)",
            "We have no content of it: it was refused before it was sent.",
        ),
        (
            State.REFUSED,
            9,
            "(refused when it had been sent)",
            "We have no content of it: it was refused when it had been sent.",
        ),
        (State.UNFINISHED, 0, "(subject not known)", "We have no content of it: it was not sent to its end."),
        (State.EXPIRED, 9, "(no subject)", "The content of this message is not kept any more."),
    ],
)
def test_of_what_was_never_seen_nothing_is_told(acme, state, size, title, content):
    cause = "policy" if size else "reverse_dns"
    row = keep("bob@alpha.test", state=state, subject="", sender="ann@far.test", cause=cause).recipients.get()
    Content.objects.all().delete()
    Message.objects.update(size=size, header_from="Ann <ann@far.test>" if size else "")
    client = browse("bob")
    text = unescape(get_text(client.get(f"/m/{row.pk}/")))
    assert f"<h1>{title}</h1>" in text
    assert content in text
    assert ("<dt>Size</dt>" in text) is ("<dt>From</dt>" in text) is bool(size)
    assert ("<dt>Sender</dt><dd>ann@far.test</dd>" in text) is (not size)
    for path in ("/?show=all", f"/trace/?q={row.message.trace_id}"):
        assert f">{title}</a>" in get_text(client.get(path))


def test_our_own_reports_are_no_bounces(acme):
    row = keep("bob@alpha.test", state=State.DELIVERED, sender="").recipients.get()
    client = browse("bob")
    for path in (f"/m/{row.pk}/", f"/trace/{row.pk}/"):
        assert "(empty: a bounce or an automatic reply)" in get_text(client.get(path))
    Message.objects.update(kind="digest")
    for path in (f"/m/{row.pk}/", f"/trace/{row.pk}/"):
        assert "(empty: we made it)" in get_text(client.get(path))
