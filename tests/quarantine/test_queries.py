"""Who sees which mail, in which order, by how many queries."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from portal.tenants.people.models import DomainAdmin, Mailbox, User
from quarantine import activity, queries
from quarantine.content import ContentDamagedError, ContentGoneError
from quarantine.models import Content, Message, Recipient, State
from quarantine.platform.models import HourlyCount, Unrouted
from tests.kept_mail import RAW, keep

DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)
EVERYBODY = {"bob@alpha.test", "carol@alpha.test", "dora@alpha.test", "bea@beta.test"}


def see(email: str) -> set[str]:
    return {row.address for row in queries.visible_to(User.objects.get(email=email))}


@pytest.mark.parametrize(
    ("email", "seen"),
    [
        ("bob@alpha.test", {"bob@alpha.test"}),
        ("dora@alpha.test", EVERYBODY - {"bea@beta.test"}),
        ("bea@beta.test", {"bea@beta.test"}),
        ("alice@acme.test", EVERYBODY),
    ],
)
def test_each_role_sees_its_own(acme, email, seen):
    keep(*EVERYBODY)
    assert see(email) == seen


def test_a_domain_admin_sees_own_mailboxes_elsewhere_too(acme):
    dora = User.objects.get(email="dora@alpha.test")
    Mailbox.objects.filter(address="bea@beta.test").update(owner=dora)
    keep("bea@beta.test", "bob@alpha.test")
    assert see("dora@alpha.test") == {"bea@beta.test", "bob@alpha.test"}


def test_a_user_without_mailbox_and_an_inactive_admin_see_nothing(acme):
    keep(*EVERYBODY)
    Mailbox.objects.filter(address="bob@alpha.test").update(owner=None)
    User.objects.filter(email="alice@acme.test").update(is_active=False)
    assert see("bob@alpha.test") == set()
    assert see("alice@acme.test") == set()


def test_another_provider_sees_nothing(db):
    with schema_context("sp_acme"):
        keep(*EVERYBODY)
    with schema_context("sp_globex"):
        assert see("mallory@globex.test") == set()


def test_pages_go_through_everything_once_newest_first(acme):
    for hour in range(5):
        keep("bob@alpha.test", received_at=DAY + timedelta(hours=hour))
    for _ in range(5):
        keep("bob@alpha.test", received_at=DAY)  # the same instant: the id decides
    rows = queries.held(Recipient.objects.all())
    seen, after = [], None
    while True:
        page = queries.get_page(rows, after=after, size=3)
        seen += [row.pk for row in page.items]
        after = page.next
        if after is None:
            break
    assert seen == list(rows.order_by("-received_at", "-id").values_list("pk", flat=True))
    assert len(seen) == 10


@pytest.mark.parametrize("after", ["", "x", "12", "-", "1-x", "9" * 30 + "-1", "1-" + "9" * 30, "²-1", None])
def test_a_broken_place_shows_the_newest(acme, after):
    keep("bob@alpha.test")
    assert len(queries.get_page(Recipient.objects.all(), after=after).items) == 1


def test_a_page_costs_the_same_for_one_row_and_for_three(acme, django_assert_num_queries):
    bob = User.objects.get(email="bob@alpha.test")
    for more in (1, 2):
        for _ in range(more):
            keep("bob@alpha.test")
        with django_assert_num_queries(3):  # domains, mailboxes, the page with its messages
            page = queries.get_page(queries.held(queries.visible_to(bob)), after=None)
            assert all(row.message.subject == "Buy now" for row in page.items)


@pytest.mark.parametrize(
    ("email", "index"),
    [
        ("bob@alpha.test", "recipient_listed_mailbox"),
        ("dora@alpha.test", "recipient_listed_domain"),
        ("alice@acme.test", "recipient_listed_all"),
    ],
)
def test_a_page_reads_its_partial_index(acme, email, index):
    for _ in range(10):
        keep(*EVERYBODY, *["bea@beta.test"] * 20)
        keep(*EVERYBODY, *["bea@beta.test"] * 20, state=State.DELIVERED)
    user = User.objects.get(email=email)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE quarantine_recipient, quarantine_message")
        cursor.execute("SET LOCAL enable_seqscan = off")  # twenty messages: a real table is longer
        cursor.execute("SET LOCAL enable_sort = off")
    rows = queries.held(queries.visible_to(user)).order_by(*queries.NEWEST_FIRST)[:51]
    assert index in rows.explain()


def test_searching_finds_every_word_in_sender_from_subject_or_address(acme):
    keep("bob@alpha.test", subject="Cheap watches 100%", sender="shop@far.test")
    keep("carol@alpha.test", subject="Invoice", sender="bill@far.test")
    find = lambda text: {row.address for row in queries.search(Recipient.objects.all(), text=text)}  # noqa: E731
    assert find("WATCHES shop") == {"bob@alpha.test"}
    assert find("watches bill") == set()
    assert find("carol@") == {"carol@alpha.test"}
    assert find("100%") == {"bob@alpha.test"}
    assert find("_") == set()
    assert find("a\0%") == {"bob@alpha.test"}
    assert find("far.test") == {"bob@alpha.test", "carol@alpha.test"}


def test_searching_by_category_and_time(acme):
    keep("bob@alpha.test", category="virus", received_at=DAY)
    keep("carol@alpha.test", received_at=DAY + timedelta(hours=1))
    rows = Recipient.objects.all()
    assert [r.address for r in queries.search(rows, category="virus")] == ["bob@alpha.test"]
    assert [r.address for r in queries.search(rows, since=DAY + timedelta(seconds=1))] == ["carol@alpha.test"]
    assert [r.address for r in queries.search(rows, until=DAY + timedelta(hours=1))] == ["bob@alpha.test"]


def test_counts_stop_at_their_bound(acme):
    for _ in range(4):
        keep("bob@alpha.test")
    assert queries.count_bounded(Recipient.objects.all(), limit=3) == 3
    assert queries.count_bounded(Recipient.objects.all()) == 4


@pytest.mark.parametrize("raw", [b"", b"x", RAW, b"\0\r\n.\r\n\xff" * 5000])
def test_the_octets_come_back(acme, raw):
    assert queries.read_raw(keep("bob@alpha.test", raw=raw)) == raw


def test_damaged_octets_are_not_handed_out(acme):
    message = keep("bob@alpha.test", raw=RAW * 100)
    other = Content.objects.get(message=keep("bob@alpha.test", raw=b"y" * len(RAW) * 100))
    Content.objects.filter(message=message).update(data=other.data)
    with pytest.raises(ContentDamagedError):
        queries.read_raw(message)
    Message.objects.filter(pk=message.pk).update(size=10)  # a bomb: more than the row says
    with pytest.raises(ContentDamagedError):
        queries.read_raw(Message.objects.get(pk=message.pk))
    Content.objects.filter(message=message).update(data=b"no zstd")
    with pytest.raises(ContentDamagedError):
        queries.read_raw(message)


def test_octets_that_nobody_needs_are_said_to_be_gone(acme):
    message = keep("bob@alpha.test")
    Content.objects.all().delete()
    with pytest.raises(ContentGoneError):
        queries.read_raw(message)


def test_a_trace_is_found_however_it_is_typed(db):
    with schema_context("sp_acme"):
        message = keep("bob@alpha.test")
        typed = f" {message.trace_id[:10].lower()} {message.trace_id[10:].replace('1', 'l').replace('0', 'O')}"
        assert queries.find_trace(typed) == message
        assert queries.find_trace("nothing") is None
    assert [provider.slug for provider in queries.list_providers_of_trace(typed)] == ["acme"]
    Unrouted.objects.create(trace_id=message.trace_id, at=DAY, reply="550 5.7.1 no")
    assert queries.list_unrouted(typed).count() == 1


def test_an_administered_domain_gone_from_the_list_is_gone_from_sight(acme):
    keep("bob@alpha.test")
    DomainAdmin.objects.all().delete()
    assert see("dora@alpha.test") == set()


def test_the_counts_of_one_provider_are_read_without_those_of_others(acme):
    now = timezone.now()
    HourlyCount.objects.bulk_create(
        HourlyCount(hour=now - timedelta(hours=hour), schema=f"sp_{number}" if number else "sp_acme", kind="refused",
                    instance=f"gw-{instance}", count=1)
        for hour in range(24) for number in range(200) for instance in range(3)
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE public.platform_hourlycount")
    span = {"since": now - timedelta(hours=24), "until": now + timedelta(hours=1)}
    with CaptureQueriesContext(connection) as captured:
        queries.count_unverified(MailDomain.objects.select_related("provider").get(name="alpha.test"))
        assert sum(count.number for count in activity.count_by_hour(activity.of_provider("sp_acme"), **span)) == 72
        activity.count_by_hour(activity.LOOK_UPS, **span)
    statements = [query["sql"] for query in captured.captured_queries if "hourlycount" in query["sql"]]
    assert len(statements) == 3
    for statement in statements:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {statement}")
            assert "hourly_count_provider" in str(cursor.fetchall()), statement
