"""The page of counts: everybody's own, by hour and day, and where its numbers lead."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import urlencode

import pytest
from django.utils import timezone

from portal.tenants.models import MailDomain
from quarantine.activity import Count
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text
from tests.portal.traces import NOON, count, search

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("ok", "a name that leads back"),
        ("none", "there is no name"),
        ("stale", "no new answer: an older one was used"),
        ("busy", "too many look-ups at once"),
        ("unconfirmed_absence", "a name server's “there is none” was not believed"),
        ("too_many_aliases", "too many aliases"),
    ],
)
def test_look_ups_that_failed_are_named_in_words(cause, words):
    assert Count(NOON, "", "dns", cause, 1).label == words


def read_counts(who: str, path: str = "/activity/", at: str = "acme") -> dict[str, int]:
    """The sums of the table, by what they count."""
    text = unescape(get_text(browse(who, at=at).get(path)))
    found = re.search(r'<tr role="row" class="sum">.*?</tr>', text, re.DOTALL)
    cells = re.findall(r'<span class="label"[^>]*>([^<]+)</span>(?:<a [^>]*>)?(\d+)', found.group()) if found else []
    return {label: int(number) for label, number in cells}


@pytest.fixture
def counted(db):
    """Counts of two instances, two domains, another provider, none, and of look-ups, in the hour that runs."""
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for instance in ("gw-1", "gw-2"):
        count(hour, domain="alpha.test", number=2, instance=instance)
        count(hour, domain="beta.test", number=10, instance=instance)
        count(hour, schema="sp_globex", domain="gamma.test", number=100, instance=instance)
        count(hour, schema="", cause="relay_denied", number=1000, instance=instance)
        count(hour, schema="", kind="dns", cause="servfail", number=5, instance=instance)
        count(hour, schema="", kind="dns", cause="ok", number=7000, instance=instance)
        count(hour, domain="alpha.test", kind="accepted", cause="", number=3, instance=instance)
        count(hour, domain="alpha.test", kind="held", cause="", number=4, instance=instance)
        count(hour, domain="alpha.test", kind="deferred", cause="overload", number=6, instance=instance)
        count(hour, domain="alpha.test", kind="unfinished", cause="timeout", number=8, instance=instance)
        count(hour, domain="alpha.test", kind="repeated", cause="sent_again", number=9, instance=instance)
    return hour


TOO_FEW = "Too few look-ups to tell (under 40)"
AGAIN = "Sent again: it had been taken a moment before"
OWN = {
    "Taken, to be delivered": 6,
    "Held in quarantine": 8,
    "Told to try again: too much at the moment": 12,
    "Not finished: the client was too slow": 16,
    AGAIN: 18,
}
NOTHING = {"Taken, to be delivered": 0, "Held in quarantine": 0}
NO_PTR = "Refused: the client has no reverse DNS"


@pytest.mark.parametrize(
    ("who", "at", "seen"),
    [
        ("dora", "acme", OWN | {NO_PTR: 4}),
        ("alice", "acme", OWN | {NO_PTR: 24}),
        ("mallory", "globex", NOTHING | {NO_PTR: 200}),
    ],
)
def test_everybody_counts_their_own_over_all_instances(counted, who, at, seen):
    assert read_counts(who, at=at) == seen
    assert read_counts(who, "/activity/?days=7", at=at) == seen


def test_older_hours_are_in_their_day_and_week(acme):
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    count(now - timedelta(hours=25), domain="alpha.test", number=3)
    assert "Nothing was counted" in get_text(browse("dora").get("/activity/"))
    assert read_counts("dora", "/activity/?days=7") == NOTHING | {NO_PTR: 3}
    day = (now - timedelta(hours=25)).date().isoformat()
    assert read_counts("dora", f"/activity/?day={day}") == NOTHING | {NO_PTR: 3}
    assert f'href="?day={day}"' in get_text(browse("dora").get("/activity/?days=7"))


@pytest.mark.parametrize("query", ["day=x", "day=2026-02-30", "days=9", "day=", "day=0001-01-01", "day=9999-12-31"])
def test_a_day_that_is_none_is_the_last_24_hours_or_nothing(acme, query):
    assert browse("dora").get(f"/activity/?{query}").status_code == 200


def test_a_number_leads_to_its_mail(acme):
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    count(hour, domain="alpha.test")
    for minutes, state, cause in (
        (1, "refused", "reverse_dns"),
        (2, "refused", "loop"),
        (61, "refused", "reverse_dns"),
    ):
        sender = "S-WANTED@far.test" if minutes == 1 else "S-OTHER@far.test"
        at = hour + timedelta(minutes=minutes if minutes < 60 else -1)
        keep("bob@alpha.test", sender=sender, received_at=at, state=state, cause=cause)
    client = browse("dora")
    text = unescape(get_text(client.get("/activity/")))
    together, link = re.findall(r'href="(/trace/\?[^"]+)"', text)
    assert set(re.findall(r"\bS-[A-Z]+\b", get_text(client.get(link)))) == {"S-WANTED"}
    count(hour, kind="repeated", cause="sent_again", domain="alpha.test")
    assert len(re.findall(r'href="/trace/\?', get_text(client.get("/activity/")))) == 2  # it is no mail of its own
    assert len(re.findall(r"\bS-WANTED\b|\bS-OTHER\b", get_text(client.get(together)))) == 2


def test_days_begin_at_midnight_where_the_viewer_is(acme):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Asia/Kolkata")  # UTC+5:30: in the hour from 18:00
    count(datetime(2026, 11, 1, 17, tzinfo=UTC), domain="alpha.test", number=1)
    count(datetime(2026, 11, 1, 18, tzinfo=UTC), domain="alpha.test", number=10)
    count(datetime(2026, 11, 2, 17, tzinfo=UTC), domain="alpha.test", number=100)
    count(datetime(2026, 11, 2, 18, tzinfo=UTC), domain="alpha.test", number=1000)
    assert read_counts("dora", "/activity/?day=2026-11-02")[NO_PTR] == 110
    assert urlencode({"since": "2026-11-02T17:00:00+00:00"}) in get_text(
        browse("dora").get("/activity/?day=2026-11-02")
    )


@pytest.mark.parametrize(("day", "hours"), [("2026-10-25", 25), ("2026-03-29", 23), ("2026-07-01", 24)])
def test_a_day_has_the_hours_that_it_has(acme, day, hours):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Europe/Berlin")
    count(datetime.fromisoformat(f"{day}T12:00:00+00:00"), domain="alpha.test")
    text = get_text(browse("dora").get(f"/activity/?day={day}"))
    assert len(re.findall(r'<tr role="row"(?: class="quiet")?><th scope="row"', text)) == hours


def test_what_is_held_is_counted_by_itself_and_leads_to_what_was_held(acme):
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    count(hour, domain="alpha.test", kind="accepted", cause="")
    count(hour, domain="alpha.test", kind="held", cause="", number=2)
    for subject, state, action in (
        ("S-CLEAN", "delivered", "deliver"),
        ("S-HELD", "quarantined", "quarantine"),
        ("S-RELEASED", "released", "quarantine"),
    ):
        keep("bob@alpha.test", subject=subject, received_at=hour, state=state, action=action)
    client = browse("dora")
    text = unescape(get_text(client.get("/activity/")))
    links = re.findall(r'href="(/trace/\?[^"]+)"', text)  # of the sums, then of the hour
    found = [set(re.findall(r"\bS-[A-Z]+\b", get_text(client.get(link)))) for link in links]
    assert found == [{"S-CLEAN"}, {"S-HELD", "S-RELEASED"}] * 2


def test_the_zone_of_times_is_said_where_they_are_read_and_typed(acme):
    MailDomain.objects.filter(name="alpha.test").update(time_zone="Asia/Kolkata")
    keep("bob@alpha.test", sender="ann@far.test")
    count(timezone.now().replace(minute=0, second=0, microsecond=0), domain="alpha.test")
    text = search("dora", q="ann@far.test")
    assert "Times are in Asia/Kolkata." in text.partition("<footer")[0]
    assert text.count("In the time zone Asia/Kolkata.") == 2  # since, before
    client = browse("dora")
    for path, unit in (("/activity/", "Hours"), ("/activity/?days=7", "Days")):
        page = get_text(client.get(path))
        assert f"{unit} are in the time zone Asia/Kolkata." in page
        assert "Hours of another day (Asia/Kolkata)" in page


def read_failed(who: str, path: str, at: str = "acme") -> list[list[str]]:
    """The table of mail whose server's name could not be looked up, line by line, as it is read."""
    text = unescape(get_text(browse(who, at=at).get(path))).partition("name could not be looked up</h2>")[2]
    table = text.partition("Failed look-ups of reverse DNS")[0].partition("<tbody")[2]
    lines = re.findall(r"<tr\b.*?</tr>", table, re.DOTALL)
    return [re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<span class=.label.*?</span>", "", line)).split() for line in lines]


def test_a_rare_cause_leads_to_all_that_could_not_be_looked_up(acme):
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    for cause in ("lame_delegation", "timeout"):
        count(now, kind="dns_failed", cause=cause, domain="alpha.test", number=3)
    links = re.findall(
        r'reverse_dns=(\w+)" aria-label="3: ([^,]+), together"', get_text(browse("dora").get("/activity/"))
    )
    assert links == [("failed", "Lame delegation"), ("timeout", "No answer in time")]


def test_mail_whose_servers_name_could_not_be_looked_up_is_counted_in_the_viewers_scope(acme):
    """However few there are: by cause and hour, over all instances."""
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    for instance in ("gw-1", "gw-2"):
        for hours, domain, cause, number in (
            (0, "alpha.test", "timeout", 2), (3, "alpha.test", "servfail", 1), (3, "beta.test", "timeout", 20)
        ):  # fmt: skip
            at = now - timedelta(hours=hours)
            count(at, kind="dns_failed", cause=cause, domain=domain, number=number, instance=instance)
    count(now, domain="alpha.test", kind="accepted", cause="", number=5)
    count(now, schema="sp_globex", kind="dns_failed", cause="busy", domain="gamma.test", number=700)
    now, then = (f"{hour:%a} {hour:%H}:00".split() for hour in (now, now - timedelta(hours=3)))
    assert read_failed("dora", "/activity/") == [["Together", "4", "2"], [*now, "4", "0"], [*then, "0", "2"]]
    assert read_failed("alice", "/activity/") == [["Together", "44", "2"], [*now, "4", "0"], [*then, "40", "2"]]
    assert read_failed("mallory", "/activity/", "globex") == [["Together", "700"], [*now, "700"]]
    assert read_failed("dora", "/activity/?days=7")[0] == ["Together", "4", "2"]
    text = get_text(browse("dora").get("/activity/"))
    for label in ("No answer in time", "The name server failed"):
        assert f'<th scope="col" class="number" role="columnheader">{label}</th>' in text
    assert "Too many look-ups at once" not in text
    assert read_counts("dora") == {"Taken, to be delivered": 5, "Held in quarantine": 0}  # nobody's mail is in it twice


def get_failures(text: str) -> list[str]:
    """What the page of counts says of look-ups, line by line."""
    part = text.partition("Failed look-ups of reverse DNS")[2].partition("By cause, with its share")[0]
    return [re.sub(r"<[^>]+>", "", line) for line in re.findall(r"<(?:li|p)\b.*?</(?:li|p)>", part)]


@pytest.mark.parametrize(
    ("servfail", "timeout", "answered", "told"),
    [
        (0, 0, 950, ""),
        (20, 19, 0, TOO_FEW),
        (30, 11, 0, "the name server failed (73 %), no answer in time (26 %)"),
        (7777, 3333, 88_890, "the name server failed (7 %), no answer in time (3 %)"),
        (66, 1234, 88_888, "no answer in time (1 %), the name server failed (under 1 %)"),
    ],
)
@pytest.mark.parametrize("who", ["dora", "alice"])
def test_providers_learn_why_look_ups_failed_and_no_number_of_them(acme, who, servfail, timeout, answered, told):
    """The numbers are of all providers together: from them and their own each could reckon the others' mail."""
    MailDomain.objects.filter(name="beta.test").delete()  # one zone for both
    hour = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    for instance in ("gw-1", "gw-2"):
        for cause, number in (("servfail", servfail), ("timeout", timeout), ("ok", answered)):
            share = number // 2 if instance == "gw-1" else number - number // 2
            if share:
                count(hour, schema="", kind="dns", cause=cause, number=share, instance=instance)
    numbers = {servfail, timeout, answered, servfail + timeout, servfail + timeout + answered}
    for path, label in (("/activity/", f"{hour:%a %H}:00"), ("/activity/?days=7", f"{hour:%a} {hour.day} {hour:%b}")):
        text = unescape(get_text(browse(who).get(path)))
        few = f"{TOO_FEW}: {label}." if told == TOO_FEW else ""
        assert get_failures(text) == [few or (f"{label}: {told}" if told else "None was counted.")]
        shown = set(re.findall(r"\d+", text.partition('<main id="main"')[2]))
        assert not {str(number) for number in numbers if number > 100} & shown  # smaller ones may be hours and days
