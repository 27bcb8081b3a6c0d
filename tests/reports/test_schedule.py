"""Which reports are made and when: rows, over days, clock changes, outages and two workers at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import ServiceProvider
from portal.tenants.people.models import Mailbox, User
from quarantine.models import Recipient
from quarantine.platform.models import DeliveryJob, Lane
from quarantine.release import release
from reports import digests, tasks
from reports.models import Digest
from reports.schedule import request_digest, reschedule
from tests.reports.held import HOUR, get_domain, get_mailbox, hold, list_handed_over, read_text

DAY = timedelta(days=1)
MORNING = datetime(2026, 11, 23, 7, tzinfo=UTC)  # the slot: the domain's zone is UTC
pytestmark = pytest.mark.usefixtures("acme")


@pytest.fixture
def clock():
    with time_machine.travel(MORNING - 3 * HOUR, tick=False) as traveller:
        Mailbox.objects.update(created_at=MORNING - 2 * DAY, next_digest_at=MORNING)
        yield traveller


def list_daily(mailbox: Mailbox) -> list[Digest]:
    return list(mailbox.digests.filter(kind="daily").order_by("slot_at"))


def run_at(clock, at: datetime) -> int:
    clock.move_to(at)
    return digests.send_due()


def test_a_report_is_made_at_the_slot_and_handed_to_the_courier(clock):
    bob = get_mailbox()
    item = hold(bob)
    assert run_at(clock, MORNING - timedelta(seconds=1)) == 0
    assert run_at(clock, MORNING) == 4
    [digest] = list_daily(bob)
    assert (digest.state, digest.slot_at, digest.held) == ("sent", MORNING, 1)
    assert (digest.since, digest.until) == (MORNING - 2 * DAY, MORNING)
    assert [link.recipient_id for link in digest.links.all()] == [item.pk]
    row = Recipient.objects.get(message=digest.message)
    assert (row.address, row.state, digest.message.sender) == ("bob@alpha.test", "delivering", "")
    assert DeliveryJob.objects.get(recipient_id=row.pk).lane == Lane.DIGEST
    bob.refresh_from_db()
    assert bob.next_digest_at == MORNING + DAY


def test_running_twice_makes_one_report_a_slot(clock):
    assert run_at(clock, MORNING) == 4
    assert run_at(clock, MORNING) == 0
    assert run_at(clock, MORNING + HOUR) == 0
    assert Digest.objects.count() == 4


def test_a_slot_that_has_its_report_gets_no_second_one(clock):
    bob = get_mailbox()
    run_at(clock, MORNING)
    Mailbox.objects.update(next_digest_at=MORNING)  # as if the move forward had been lost
    assert run_at(clock, MORNING + HOUR) == 4
    assert len(list_daily(bob)) == 1
    bob.refresh_from_db()
    assert bob.next_digest_at == MORNING + DAY


def test_each_message_is_in_exactly_one_daily_report(clock):
    bob = get_mailbox()
    for hours in (-47, -10, -1, 0, 1, 12, 23, 24, 30, 47):
        hold(bob, at=MORNING + hours * HOUR, subject=f"mail at {hours}")
    for day in range(3):
        run_at(clock, MORNING + day * DAY)
    found = [text.count("mail at") for text in map(read_text, list_daily(bob))]
    assert found == [3, 4, 3]
    assert [digest.held for digest in list_daily(bob)] == found


def test_no_drift_and_no_gap_when_runs_are_late(clock):
    bob = get_mailbox()
    for day, minutes in enumerate((3, 50, 12)):
        run_at(clock, MORNING + day * DAY + timedelta(minutes=minutes))
    made = list_daily(bob)
    assert [digest.slot_at for digest in made] == [MORNING, MORNING + DAY, MORNING + 2 * DAY]
    assert [digest.since for digest in made[1:]] == [digest.until for digest in made[:-1]]


def test_a_message_that_is_committed_late_is_in_the_next_report_once(clock):
    bob = get_mailbox()
    hold(bob, at=MORNING - timedelta(seconds=20), subject="seen")
    run_at(clock, MORNING)
    hold(bob, at=MORNING - timedelta(seconds=10), subject="late")  # received before, committed after
    run_at(clock, MORNING + DAY)
    run_at(clock, MORNING + 2 * DAY)
    texts = [read_text(digest) for digest in list_daily(bob)]
    assert [("seen" in text, "late" in text) for text in texts] == [(True, False), (False, True), (False, False)]
    assert [digest.held for digest in list_daily(bob)] == [1, 1, 0]


def test_two_reports_within_an_hour_do_not_repeat_each_other(clock):
    bob = get_mailbox()
    hold(bob, at=MORNING - timedelta(minutes=30))
    run_at(clock, MORNING)
    Mailbox.objects.filter(pk=bob.pk).update(next_digest_at=MORNING + timedelta(minutes=10))
    run_at(clock, MORNING + timedelta(minutes=10))
    run_at(clock, MORNING + DAY)
    assert [digest.held for digest in list_daily(bob)] == [1, 0, 0]


def test_after_an_outage_one_report_covers_everything(clock):
    bob = get_mailbox()
    run_at(clock, MORNING)
    for hours in (10, 30, 50, 70):
        hold(bob, at=MORNING + hours * HOUR)
    assert run_at(clock, MORNING + 75 * HOUR) == 4
    assert run_at(clock, MORNING + 75 * HOUR) == 0
    first, second = list_daily(bob)
    assert (second.since, second.held) == (first.until, 4)
    bob.refresh_from_db()
    assert bob.next_digest_at == MORNING + 4 * DAY


def test_released_messages_are_not_reported(clock):
    bob = get_mailbox()
    item = hold(bob)
    hold(bob)
    release(Recipient.objects.filter(pk=item.pk), by="bob@alpha.test")
    run_at(clock, MORNING)
    assert list_daily(bob)[0].held == 1


@pytest.mark.parametrize(
    ("day", "hour", "slots"),
    [
        (datetime(2026, 3, 29, tzinfo=UTC), 2, [(28, 1), (29, 1), (30, 0)]),  # 02:00 does not exist on the 29th
        (datetime(2026, 10, 25, tzinfo=UTC), 2, [(24, 0), (25, 0), (26, 1)]),  # and comes twice on the 25th
    ],
)
def test_one_report_a_day_when_the_clocks_change(clock, day, hour, slots):
    domain = get_domain()
    domain.time_zone, domain.digest_hour = "Europe/Berlin", hour
    domain.save()
    bob = get_mailbox()
    clock.move_to(day - 2 * DAY + 12 * HOUR)
    Mailbox.objects.update(next_digest_at=None)
    for quarters in range(4 * 74):
        clock.move_to(day - 2 * DAY + 12 * HOUR + quarters * timedelta(minutes=15))
        digests.send_due()
    assert [(digest.slot_at.day, digest.slot_at.hour) for digest in list_daily(bob)] == slots


def test_a_new_mailbox_gets_its_first_slot_and_no_report_yet(clock):
    Mailbox.objects.update(next_digest_at=None)
    assert run_at(clock, MORNING - HOUR) == 4
    assert set(Mailbox.objects.values_list("next_digest_at", flat=True)) == {MORNING}
    assert not Digest.objects.exists()


def test_the_mailbox_hour_stands_before_that_of_the_domain(clock):
    bob = get_mailbox()
    Mailbox.objects.filter(pk=bob.pk).update(digest_hour=15, next_digest_at=None)
    digests.send_due()
    bob.refresh_from_db()
    assert bob.next_digest_at == MORNING + 8 * HOUR


def test_who_wants_no_report_gets_none_and_misses_nothing_later(clock):
    bob = get_mailbox()
    run_at(clock, MORNING)
    Mailbox.objects.filter(pk=bob.pk).update(wants_digest=False)
    hold(bob, at=MORNING + HOUR)
    run_at(clock, MORNING + DAY)
    assert len(list_daily(bob)) == 1
    Mailbox.objects.filter(pk=bob.pk).update(wants_digest=True)
    run_at(clock, MORNING + 2 * DAY)
    first, second = list_daily(bob)
    assert (second.since, second.held) == (first.until, 1)


def test_an_empty_report_is_sent_unless_the_provider_says_no(clock):
    bob = get_mailbox()
    run_at(clock, MORNING)
    assert (list_daily(bob)[0].state, list_daily(bob)[0].held) == ("sent", 0)
    ServiceProvider.objects.filter(slug="acme").update(send_empty_digests=False)
    hold(get_mailbox("carol@alpha.test"), at=MORNING + HOUR)
    run_at(clock, MORNING + DAY)
    skipped = list_daily(bob)[1]
    assert (skipped.state, skipped.message) == ("skipped", None)
    assert "no empty reports" in skipped.reason
    assert list_daily(get_mailbox("carol@alpha.test"))[1].state == "sent"


def test_an_hour_put_off_moves_the_report_of_the_day(clock):
    bob = get_mailbox()
    domain = get_domain()
    domain.digest_hour = 9
    domain.save()
    run_at(clock, MORNING)
    assert list_daily(bob) == []
    run_at(clock, MORNING + 2 * HOUR)
    run_at(clock, MORNING + DAY)
    assert [digest.slot_at for digest in list_daily(bob)] == [MORNING + 2 * HOUR]


def test_rescheduling_keeps_one_report_a_day(clock):
    bob, carol = get_mailbox(), get_mailbox("carol@alpha.test")
    Mailbox.objects.filter(pk=carol.pk).update(next_digest_at=MORNING + 20 * HOUR, digest_hour=15)
    run_at(clock, MORNING)
    clock.move_to(MORNING + HOUR)
    get_domain().__class__.objects.filter(name="alpha.test").update(digest_hour=10)
    assert reschedule(Mailbox.objects.filter(domain_id=get_domain().pk)) == 3
    bob.refresh_from_db()
    carol.refresh_from_db()
    assert bob.next_digest_at == MORNING + DAY + 3 * HOUR  # had today's at 7
    assert carol.next_digest_at == MORNING + 8 * HOUR  # her own hour, no report yet today


def test_a_report_that_fails_holds_up_no_other(clock):
    bob, carol = get_mailbox(), get_mailbox("carol@alpha.test")
    hold(bob, category="no such category")
    assert run_at(clock, MORNING) == 4
    assert list_daily(bob) == []
    assert list_daily(carol)[0].state == "sent"
    bob.refresh_from_db()
    assert bob.next_digest_at == MORNING + timedelta(minutes=15)
    Recipient.objects.filter(category="no such category").update(category="spam")
    run_at(clock, MORNING + timedelta(minutes=15))
    assert list_daily(bob)[0].held == 1
    bob.refresh_from_db()
    assert bob.next_digest_at == MORNING + DAY


def test_a_report_that_fails_late_in_the_day_is_made_after_midnight(clock):
    bob, late = get_mailbox(), MORNING + 16 * HOUR + timedelta(minutes=55)
    broken = hold(bob, at=MORNING, category="no such category")
    get_domain().__class__.objects.update(digest_hour=23)
    Mailbox.objects.update(next_digest_at=MORNING + 16 * HOUR)
    run_at(clock, late)
    Recipient.objects.filter(pk=broken.pk).update(category="spam")
    run_at(clock, late + timedelta(minutes=15))
    assert [digest.held for digest in list_daily(bob)] == [1]
    bob.refresh_from_db()
    assert bob.next_digest_at == MORNING + 16 * HOUR + DAY


def test_a_domain_that_is_gone_stops_nobody(clock):
    Mailbox.objects.filter(address="bob@alpha.test").update(domain_id=987654)
    assert run_at(clock, MORNING) == 4
    assert Digest.objects.count() == 3
    assert run_at(clock, MORNING) == 0


def test_the_number_of_queries_does_not_grow_with_the_items(clock, django_assert_num_queries):
    bob, carol = get_mailbox(), get_mailbox("carol@alpha.test")
    for mailbox, items in ((bob, 3), (carol, 40)):
        for _ in range(items):
            hold(mailbox, at=MORNING - HOUR)
        Mailbox.objects.exclude(pk=mailbox.pk).update(next_digest_at=MORNING + DAY)
        Mailbox.objects.filter(pk=mailbox.pk).update(next_digest_at=MORNING)
        clock.move_to(MORNING)
        with django_assert_num_queries(18):
            digests.send_due()


def test_on_demand_covers_24_hours_and_leaves_the_daily_alone(clock):
    bob, by = get_mailbox(), User.objects.get(email="bob@alpha.test")
    now = timezone.now()
    for hours in (30, 23, 1):
        hold(bob, at=now - hours * HOUR)
    before = bob.next_digest_at
    assert request_digest(Mailbox.objects.filter(pk=bob.pk), by=by) == 1
    [asked] = Digest.objects.filter(kind="on_demand")
    assert (asked.state, asked.requested_by) == ("due", by)
    assert digests.send_requested([asked.pk]) == 1
    assert digests.send_requested([asked.pk]) == 0
    asked.refresh_from_db()
    assert (asked.state, asked.held) == ("sent", 2)
    bob.refresh_from_db()
    assert bob.next_digest_at == before
    run_at(clock, MORNING)
    assert list_daily(bob)[0].held == 3
    assert len(list_handed_over()) == 5


def test_on_demand_is_taken_once_a_minute_from_the_same_person(clock):
    bob, alice = User.objects.get(email="bob@alpha.test"), User.objects.get(email="alice@acme.test")
    boxes = Mailbox.objects.filter(address__endswith="@alpha.test")
    own = boxes.filter(address="bob@alpha.test")
    assert request_digest(own, by=bob) == 1
    assert request_digest(own, by=bob) == 0
    assert request_digest(own, by=alice) == 1
    assert request_digest(boxes, by=alice) == 2
    clock.shift(61)
    assert request_digest(boxes, by=alice) == 3
    assert request_digest(Mailbox.objects.none(), by=alice) == 0


def test_on_demand_is_sent_though_nothing_is_held_and_empty_reports_are_off(clock):
    ServiceProvider.objects.filter(slug="acme").update(send_empty_digests=False)
    request_digest(Mailbox.objects.filter(address="bob@alpha.test"), by=User.objects.get(email="bob@alpha.test"))
    digests.send_requested(list(Digest.objects.values_list("pk", flat=True)))
    assert Digest.objects.get().state == "sent"


def test_a_task_names_rows_and_no_secrets(clock, django_capture_on_commit_callbacks, monkeypatch):
    sent = []
    monkeypatch.setattr(tasks.send_requested_digests, "apply_async", lambda args, **options: sent.append(args))
    with django_capture_on_commit_callbacks(execute=True):
        request_digest(Mailbox.objects.all(), by=User.objects.get(email="alice@acme.test"))
    assert sent == [("sp_acme", list(Digest.objects.values_list("pk", flat=True)))]


def test_dispatch_starts_each_provider_by_itself_and_finds_lost_requests(clock, monkeypatch):
    chains, lost = [], []
    monkeypatch.setattr(tasks.send_due_digests, "apply_async", lambda args, **options: chains.append(args))
    monkeypatch.setattr(tasks.send_requested_digests, "delay", lambda *args: lost.append(args))
    request_digest(Mailbox.objects.filter(address="bob@alpha.test"), by=None)
    with schema_context("sp_globex"):
        Mailbox.objects.update(next_digest_at=MORNING + DAY)
    clock.move_to(MORNING)
    with schema_context("public"):
        tasks.dispatch_due_digests()
    assert chains == [("sp_acme",)]
    assert lost == [("sp_acme", [Digest.objects.get().pk])]
