"""Releasing and deleting: guarded, counted, written down."""

import threading

import pytest
from django.db import connection
from django_tenants.utils import schema_context

from quarantine import queries, release
from quarantine.models import Content, Event, Recipient, State
from quarantine.platform.models import DeliveryJob
from tests.kept_mail import keep

ALL = "bob@alpha.test", "carol@alpha.test"


def get_states() -> dict[str, str]:
    return dict(Recipient.objects.values_list("address", "state"))


def test_a_release_queues_writes_down_and_counts(acme):
    message = keep(*ALL)
    bobs = Recipient.objects.filter(address="bob@alpha.test")
    assert release.release(bobs, by="bob@alpha.test") == 1
    row = bobs.get()
    assert (row.state, row.changed_by) == (State.RELEASING, "bob@alpha.test")
    assert get_states()["carol@alpha.test"] == State.QUARANTINED
    job = DeliveryJob.objects.get()
    assert (job.schema, job.recipient_id, job.domain_id, job.lane) == ("sp_acme", row.pk, row.domain_id, "release")
    event = Event.objects.get()
    assert (event.message_id, event.recipient_id, event.kind, event.actor) == (
        message.pk, row.pk, "releasing", "bob@alpha.test"
    )  # fmt: skip


def test_a_second_release_does_nothing(acme):
    keep("bob@alpha.test")
    assert release.release(Recipient.objects.all(), by="bob@alpha.test") == 1
    assert release.release(Recipient.objects.all(), by="alice@acme.test") == 0
    assert (DeliveryJob.objects.count(), Event.objects.count()) == (1, 1)
    assert Recipient.objects.get().changed_by == "bob@alpha.test"


@pytest.mark.parametrize("state", sorted(set(State.values) - {"quarantined", "held"}))
def test_only_held_mail_is_released_or_deleted(acme, state):
    keep("bob@alpha.test", state=state)
    assert release.release(Recipient.objects.all(), by="x") == 0
    assert release.delete(Recipient.objects.all(), by="x") == 0
    assert get_states() == {"bob@alpha.test": state}
    assert not DeliveryJob.objects.exists()


def test_what_the_server_refused_can_be_tried_again(acme):
    keep("bob@alpha.test", state=State.HELD, reply="550 5.1.1 who?", attempts=7)
    assert release.release(Recipient.objects.all(), by="x") == 1
    row = Recipient.objects.get()
    assert (row.state, row.reply, row.attempts) == (State.RELEASING, "", 0)


def test_mail_without_content_is_not_released(acme):
    keep("bob@alpha.test")
    Content.objects.all().delete()
    assert release.release(Recipient.objects.all(), by="x") == 0
    assert get_states() == {"bob@alpha.test": State.QUARANTINED}


def test_content_goes_with_the_last_who_needs_it(acme):
    message = keep(*ALL)
    assert release.delete(Recipient.objects.filter(address="bob@alpha.test"), by="bob@alpha.test") == 1
    assert queries.read_raw(message)
    assert release.delete(Recipient.objects.all(), by="carol@alpha.test") == 1
    assert not Content.objects.exists()
    assert set(get_states().values()) == {State.DELETED}
    assert list(Event.objects.order_by("id").values_list("kind", "actor")) == [
        ("deleted", "bob@alpha.test"),
        ("deleted", "carol@alpha.test"),
    ]


def test_nothing_is_released_after_it_was_deleted(acme):
    keep("bob@alpha.test")
    rows = Recipient.objects.all()
    release.delete(rows, by="x")
    assert release.release(rows, by="x") == 0


def test_a_thousand_go_in_a_few_statements(acme, django_assert_max_num_queries):
    for _ in range(100):
        keep(*(f"{number}@alpha.test" for number in range(10)))
    with django_assert_max_num_queries(4):
        assert release.release(queries.held(Recipient.objects.select_related("message")), by="x") == 1000
    assert DeliveryJob.objects.count() == 1000


def test_a_page_of_rows_can_be_released(acme):
    for _ in range(5):
        keep("bob@alpha.test")
    rows = queries.search(Recipient.objects.all(), text="buy").order_by("-received_at", "-id")
    assert release.release(rows[:2], by="x") == 2
    assert release.release(Recipient.objects.none(), by="x") == 0


def test_two_people_at_once_release_each_row_once(committed):
    with schema_context("sp_acme"):
        for _ in range(50):
            keep(*ALL)
    counts = []

    def act(order: str) -> None:
        try:
            with schema_context("sp_acme"):
                counts.append(release.release(Recipient.objects.order_by(order), by="x"))
        finally:
            connection.close()

    threads = [threading.Thread(target=act, args=(order,)) for order in ("id", "-id", "id", "-id")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 100
    assert len(counts) == 4
    assert DeliveryJob.objects.count() == 100
