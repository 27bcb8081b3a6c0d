"""The ground under the other tests."""

import pytest
from django_tenants.utils import schema_context

from portal.tenants.people.models import Mailbox, User


@pytest.mark.django_db
def test_providers_do_not_share_people():
    with schema_context("sp_acme"):
        assert User.objects.filter(email="bob@alpha.test").exists()
    with schema_context("sp_globex"):
        assert not User.objects.filter(email="bob@alpha.test").exists()


def test_committed_writes_are_gone_afterwards(committed):
    with schema_context("sp_acme"):
        before = Mailbox.objects.count()
        Mailbox.objects.create(address="new@alpha.test", domain_id=1)
        assert Mailbox.objects.count() == before + 1


def test_the_cast_is_whole_again(committed):
    with schema_context("sp_acme"):
        assert not Mailbox.objects.filter(address="new@alpha.test").exists()
