"""Recipient -> provider, mailbox and rules; and how soon a change is known."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from asgiref.sync import sync_to_async
from django.db import connection
from django_tenants.utils import schema_context

from portal.tenants.database import make_pool
from portal.tenants.directory import Addressee, Directory, DirectoryUnavailable, UnknownMailbox
from portal.tenants.models import MailDomain, ServiceProvider
from portal.tenants.people.models import Mailbox, MailboxAlias, SenderRule

pytestmark = pytest.mark.usefixtures("committed")


@asynccontextmanager
async def open_directory(hostname: str = ""):
    pool = make_pool(name="test", max_size=2)
    await pool.open()
    directory = Directory(pool, hostname=hostname)
    await directory.start()
    await asyncio.wait_for(directory.listening.wait(), 10)
    try:
        yield directory
    finally:
        await directory.close()
        await pool.close()


def find(*addresses: str, hostname: str = "") -> list:
    async def run() -> list:
        async with open_directory(hostname) as directory:
            return [await directory.find(address) for address in addresses]

    return asyncio.run(run())


def get_mailbox(address: str) -> Mailbox:
    return Mailbox.objects.get(address=address)


def test_a_mailbox_is_found_whatever_the_case():
    [found] = find("Bob@ALPHA.test")
    with schema_context("sp_acme"):
        assert found.mailbox_id == get_mailbox("bob@alpha.test").pk
    assert (found.address, found.domain.schema, found.domain.provider) == ("bob@alpha.test", "sp_acme", "acme")
    assert (found.domain.spam_action, found.domain.ptr_action) == ("quarantine", "")


def test_unknown_mailbox_and_unknown_domain_are_told_apart():
    unknown, foreign, bare = find("nobody@alpha.test", "bob@elsewhere.test", "bob")
    assert isinstance(unknown, UnknownMailbox)
    assert unknown.domain.schema == "sp_acme"
    assert foreign is None
    assert bare is None


def test_aliases_and_tags_lead_to_the_mailbox():
    with schema_context("sp_acme"):
        bob, carol = get_mailbox("bob@alpha.test"), get_mailbox("carol@alpha.test")
        MailboxAlias.objects.create(address="sales@alpha.test", mailbox=bob)
        MailboxAlias.objects.create(address="bob+vip@alpha.test", mailbox=carol)
    found = find("sales@alpha.test", "sales+x@alpha.test", "bob+news@alpha.test", "bob+vip@alpha.test")
    assert [one.mailbox_id for one in found] == [bob.pk, bob.pk, bob.pk, carol.pk]


def test_a_tag_alone_is_nobody():
    [found] = find("+tag@alpha.test")
    assert isinstance(found, UnknownMailbox)


def test_postmaster_is_always_somebody():
    of_domain, bare, at_home = find("Postmaster@beta.test", "postmaster", "postmaster@gamma.test")
    assert (of_domain.address, of_domain.mailbox_id) == ("postmaster@beta.test", None)
    assert bare.address == "postmaster@alpha.test"  # the oldest domain
    assert at_home.domain.schema == "sp_globex"


def test_bare_postmaster_belongs_to_the_domain_of_the_gateways_name():
    [found] = find("Postmaster", hostname="mx1.gamma.test")
    assert found.address == "postmaster@gamma.test"


def test_rules_of_mailbox_domain_and_provider_come_with_the_recipient():
    with schema_context("sp_acme"):
        bob, carol = get_mailbox("bob@alpha.test"), get_mailbox("carol@alpha.test")
        SenderRule.objects.create(action="allow", pattern="a@x.test", mailbox=bob)
        SenderRule.objects.create(action="block", pattern="@x.test", domain_id=bob.domain_id)
        SenderRule.objects.create(action="block", pattern="@y.test")
        SenderRule.objects.create(action="block", pattern="@z.test", mailbox=carol)
        other = MailDomain.objects.get(name="beta.test")
        SenderRule.objects.create(action="block", pattern="@w.test", domain_id=other.pk)
    found, elsewhere = find("bob@alpha.test", "gus@gamma.test")
    assert set(found.rules) == {
        ("mailbox", "allow", "a@x.test"),
        ("domain", "block", "@x.test"),
        ("provider", "block", "@y.test"),
    }
    assert elsewhere.rules == ()


def add_mailbox() -> None:
    with schema_context("sp_acme"):
        Mailbox.objects.create(address="new@alpha.test", domain_id=get_mailbox("bob@alpha.test").domain_id)


def block_sender() -> None:
    with schema_context("sp_acme"):
        SenderRule.objects.create(action="block", pattern="@x.test", mailbox=get_mailbox("bob@alpha.test"))


def add_domain() -> None:
    acme = ServiceProvider.objects.get(slug="acme")
    MailDomain.objects.create(name="delta.test", provider=acme, server_host="127.0.0.1")


def tag_spam() -> None:
    MailDomain.objects.filter(name="alpha.test").update(spam_action="tag")


def make_change(change) -> None:
    change()
    connection.close()


@pytest.mark.parametrize(
    ("address", "change", "is_known"),
    [
        ("new@alpha.test", add_mailbox, lambda found: isinstance(found, Addressee)),
        ("bob@alpha.test", block_sender, lambda found: found.rules == (("mailbox", "block", "@x.test"),)),
        ("postmaster@delta.test", add_domain, lambda found: isinstance(found, Addressee)),
        ("bob@alpha.test", tag_spam, lambda found: found.domain.spam_action == "tag"),
    ],
)
def test_a_change_is_known_without_a_restart(address, change, is_known):
    async def run() -> None:
        async with open_directory() as directory:
            assert not is_known(await directory.find(address))
            await sync_to_async(make_change, thread_sensitive=False)(change)
            async with asyncio.timeout(5):
                while not is_known(await directory.find(address)):  # noqa: ASYNC110 - nothing says when
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_what_is_in_memory_is_answered_while_the_database_is_away():
    async def run() -> None:
        pool = make_pool(name="test", max_size=1)
        await pool.open()
        directory = Directory(pool)
        bob = await directory.find("bob@alpha.test")
        await pool.close()
        assert await directory.find("BOB@alpha.test") is bob
        with pytest.raises(DirectoryUnavailable):
            await directory.find("carol@alpha.test")
        await directory.close()

    asyncio.run(run())


def test_recipients_are_found_while_the_public_schema_changes_faster_than_it_is_read(monkeypatch):
    async def run() -> None:
        pool = make_pool(name="test", max_size=2)
        await pool.open()
        directory, ask = Directory(pool), Directory._ask

        async def change_and_ask(self, *arguments):
            rows = await ask(self, *arguments)
            directory._drop("public")
            return rows

        monkeypatch.setattr(Directory, "_ask", change_and_ask)
        async with asyncio.timeout(10):
            found = await asyncio.gather(*(directory.find("bob@alpha.test") for _ in range(5)))
        assert [one.address for one in found] == ["bob@alpha.test"] * 5
        monkeypatch.undo()
        await sync_to_async(make_change, thread_sensitive=False)(tag_spam)
        directory._drop("public")
        assert (await directory.find("bob@alpha.test")).domain.spam_action == "tag"
        await pool.close()

    asyncio.run(run())


def test_an_answer_made_of_what_has_changed_meanwhile_is_not_remembered(monkeypatch):
    async def run() -> None:
        pool = make_pool(name="test", max_size=2)
        await pool.open()
        directory, ask = Directory(pool), Directory._ask

        async def ask_and_change(self, query, values):
            rows = await ask(self, query, values)
            if values is None:  # the domains
                await sync_to_async(make_change, thread_sensitive=False)(tag_spam)
                directory._drop("public")
            return rows

        monkeypatch.setattr(Directory, "_ask", ask_and_change)
        await directory.find("bob@alpha.test")
        monkeypatch.undo()
        assert (await directory.find("bob@alpha.test")).domain.spam_action == "tag"
        await pool.close()

    asyncio.run(run())


def test_the_listener_survives_a_fault_of_whoever_is_called_back():
    faults = [RuntimeError("x")]

    def fail_once() -> None:
        if faults:
            raise faults.pop()

    async def run() -> None:
        pool = make_pool(name="test", max_size=2)
        await pool.open()
        directory = Directory(pool)
        directory.on_public_change(fail_once)
        await directory.start()
        await asyncio.wait_for(directory.listening.wait(), 10)
        assert not faults
        await directory.close()
        await pool.close()

    asyncio.run(run())
