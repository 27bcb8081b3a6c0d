"""What expires, when, and what stays."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_tenants.utils import schema_context

from portal.tenants.models import MailDomain
from quarantine import retention, tasks
from quarantine.models import Content, Event, Recipient, State
from tests.kept_mail import add_recipient, keep

BOTH = "bob@alpha.test", "bea@beta.test"


def days_ago(days: float):
    return timezone.now() - timedelta(days=days)


def get_states() -> dict[str, str]:
    return dict(Recipient.objects.values_list("address", "state"))


def test_held_mail_expires_after_its_domains_days(acme):
    MailDomain.objects.filter(name="beta.test").update(retention_days=7)
    message = keep(*BOTH, received_at=days_ago(8))
    assert retention.expire_held() == 1
    assert get_states() == {"bob@alpha.test": "quarantined", "bea@beta.test": "expired"}
    assert Content.objects.filter(message=message).exists()
    event = Event.objects.get()
    assert (event.kind, event.text, event.recipient.address) == ("expired", "kept for 7 days", "bea@beta.test")


def test_content_goes_and_rows_stay(acme):
    keep(*BOTH, received_at=days_ago(31))
    assert retention.expire_held() == 2
    assert set(get_states().values()) == {"expired"}
    assert not Content.objects.exists()
    assert retention.expire_held() == 0


@pytest.mark.parametrize("state", sorted(set(State.values) - {"quarantined", "held"}))
def test_nothing_else_expires(acme, state):
    keep("bob@alpha.test", state=state, received_at=days_ago(400), changed_at=days_ago(400))
    assert retention.expire_held() == 0
    assert get_states() == {"bob@alpha.test": state}


def test_refused_mail_is_kept_from_the_refusal_on(acme):
    keep("bob@alpha.test", state=State.HELD, received_at=days_ago(34), changed_at=days_ago(29))
    keep("carol@alpha.test", state=State.HELD, received_at=days_ago(40), changed_at=days_ago(31))
    assert retention.expire_held() == 1
    assert get_states() == {"bob@alpha.test": "held", "carol@alpha.test": "expired"}


def test_mail_of_a_domain_that_left_expires_too(acme):
    keep("bob@alpha.test", received_at=days_ago(31))
    Recipient.objects.update(domain_id=999_999)
    assert retention.expire_held() == 1


def test_piles_go_in_bounded_batches(acme, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(7):
        keep("bob@alpha.test", received_at=days_ago(31))
    assert retention.expire_held() == 7


def test_released_content_is_kept_as_long_as_held_mail(acme):
    keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(29))
    gone = keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(31))
    stays = keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(31))
    add_recipient(stays, "bea@beta.test", state=State.DEFERRED)
    assert retention.drop_outlived() == 1
    assert not Content.objects.filter(message=gone).exists()
    assert Content.objects.count() == 2
    assert set(get_states().values()) == {"released", "deferred"}


def test_outlived_content_is_looked_at_by_the_shortest_retention(acme):
    MailDomain.objects.filter(name="beta.test").update(retention_days=2)
    keep("bea@beta.test", state=State.RELEASED, received_at=days_ago(3))
    assert retention.drop_outlived() == 1


def test_released_mail_of_a_domain_that_left_is_dropped_too(acme):
    keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(31))
    stays = keep("bob@alpha.test", state=State.RELEASED, received_at=days_ago(29))
    Recipient.objects.update(domain_id=999_999)
    assert retention.drop_outlived() == 1
    assert Content.objects.get().message == stays


def test_outlived_content_goes_in_bounded_batches_found_by_age(acme, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(4):
        keep(*BOTH, state=State.RELEASED, received_at=days_ago(31))
    with connection.cursor() as cursor, CaptureQueriesContext(connection) as captured:
        cursor.execute("SET LOCAL enable_seqscan = off")
        assert retention.drop_outlived() == 4
        query = next(entry["sql"] for entry in captured if "released.domain_id =" in entry["sql"])
        cursor.execute(f"EXPLAIN {query}")
        assert "recipient_released_domain" in str(cursor.fetchall())
    assert not Content.objects.exists()


def test_the_task_works_in_its_own_provider(committed):
    with schema_context("sp_acme"):
        keep("bob@alpha.test", received_at=days_ago(31))
    tasks.expire_provider.apply(args=["sp_globex"], throw=True)
    with schema_context("sp_acme"):
        assert get_states() == {"bob@alpha.test": "quarantined"}
    tasks.expire_provider.apply(args=["sp_acme"], throw=True)
    with schema_context("sp_acme"):
        assert get_states() == {"bob@alpha.test": "expired"}
