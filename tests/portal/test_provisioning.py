"""Providers, domains, mailboxes and users: what is made, and the sentence where nothing is."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django_tenants.utils import schema_context

from portal.tenants import provisioning
from portal.tenants.loops import is_own_address
from portal.tenants.models import Hostname, MailDomain, ServiceProvider
from portal.tenants.people.models import DomainAdmin, Mailbox, MailboxAlias, User
from portal.tenants.provisioning import ProvisioningError
from quarantine.models import Message

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def get_acme() -> ServiceProvider:
    return provisioning.get_provider("acme")


def run(name: str, *args: str) -> dict:
    output = io.StringIO()
    call_command(name, *args, "--json", stdout=output)
    return json.loads(output.getvalue())


def test_new_provider_has_a_schema_a_hostname_and_a_brand(db):
    made = provisioning.create_provider(
        slug="initech", name="Initech", hostname="Mail.Initech.Example.", colour="#AA00FF", logo=PNG, support="112"
    )
    stored = ServiceProvider.objects.get(slug="initech")
    assert (stored.schema_name, stored.colour, bytes(stored.logo), stored.logo_type) == (
        "sp_initech",
        "#aa00ff",
        PNG,
        "image/png",
    )
    assert Hostname.objects.get(tenant=made).domain == "mail.initech.example"
    with schema_context("sp_initech"):
        assert not Message.objects.exists()
        assert not User.objects.exists()


def test_new_schema_has_the_tables_of_the_others(db):
    provisioning.create_provider(slug="initech", name="Initech", hostname="initech.localhost")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT schemaname, array_agg(replace(indexdef, schemaname || '.', '') ORDER BY indexname)"
            " FROM pg_indexes WHERE schemaname IN ('sp_acme', 'sp_initech') GROUP BY schemaname"
        )
        found = dict(cursor.fetchall())
    assert found["sp_acme"] == found["sp_initech"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"slug": "acme"}, "There is a provider 'acme' already."),
        ({"slug": "Not-a-slug"}, "Slug: Use a-z, 0-9 and _, beginning with a letter."),
        ({"slug": 'x"; drop schema public'}, "Slug: Use a-z, 0-9 and _, beginning with a letter."),
        ({"name": ""}, "Name: This field cannot be blank."),
        ({"hostname": "acme.localhost"}, "The hostname acme.localhost is taken by a provider already."),
        ({"hostname": "no host"}, "'no host' is no hostname such as quarantine.example.com."),
        ({"hostname": "www.initech.example"}, "Give the hostname without www.: initech.example answers to both."),
        ({"colour": "red"}, "Colour: Use a colour such as #0b5fff."),
        ({"logo": b"<svg onload=alert(1)>"}, "The logo is neither a PNG nor a JPEG file."),
        ({"logo": PNG + b"x" * 262_144}, "The logo has 262172 bytes; at most 262144 are allowed."),
    ],
)
def test_provider_with_bad_input_leaves_nothing(db, fields, sentence):
    wanted = {"slug": "initech", "name": "Initech", "hostname": "initech.localhost"} | fields
    with pytest.raises(ProvisioningError) as caught:
        provisioning.create_provider(**wanted)
    assert str(caught.value) == sentence
    assert not ServiceProvider.objects.filter(slug="initech").exists()


def test_left_over_schema_is_never_taken_over(db):
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA sp_initech")
    with pytest.raises(ProvisioningError, match="has a schema sp_initech already"):
        provisioning.create_provider(slug="initech", name="Initech", hostname="initech.localhost")


def test_domain_keeps_server_and_time_zone(db):
    made = provisioning.add_domain(get_acme(), "New.Test.", server="[2001:db8::1]:2500", time_zone="Asia/Tokyo")
    stored = MailDomain.objects.get(name="new.test")
    assert (stored.pk, stored.server_host, stored.server_port, stored.time_zone, stored.provider.slug) == (
        made.pk,
        "2001:db8::1",
        2500,
        "Asia/Tokyo",
        "acme",
    )


@pytest.mark.parametrize(
    ("name", "server", "zone", "sentence"),
    [
        ("gamma.test", "10.0.0.1:25", "UTC", "The domain gamma.test is taken by a provider already."),
        ("nodots", "10.0.0.1:25", "UTC", "Name: Use a domain in lower case, such as example.com."),
        ("bücher.test", "10.0.0.1:25", "UTC", "Write the domain 'bücher.test' in its ASCII form, which begins with"),
        ("new.test", "10.0.0.1", "UTC", "The mail server is '10.0.0.1'; it must be host:port"),
        ("new.test", "10.0.0.1:70000", "UTC", "The mail server is '10.0.0.1:70000'; it must be host:port"),
        ("new.test", "mail server:25", "UTC", "'mail server' is neither a hostname nor an address."),
        ("new.test", "10.0.0.1:25", "Mars", "Time zone: 'Mars' is not a time zone such as Europe/Berlin."),
        ("new.test", "127.0.0.1:2525", "UTC", "127.0.0.1:2525 is this gateway itself"),
        ("new.test", "localhost:2525", "UTC", "localhost:2525 is this gateway itself"),
    ],
)
def test_domain_with_bad_input_leaves_nothing(db, settings, name, server, zone, sentence):
    settings.SMTP_ADDRESS = provisioning.Address("127.0.0.1", 2525)
    with pytest.raises(ProvisioningError) as caught:
        provisioning.add_domain(get_acme(), name, server=server, time_zone=zone)
    assert str(caught.value).startswith(sentence)
    assert not MailDomain.objects.filter(name="new.test").exists()


def test_a_domain_is_changed_in_what_was_said_and_nothing_else(db):
    MailDomain.objects.filter(name="alpha.test").update(spam_action="tag")
    made = run("change_domain", "acme", "Alpha.test", "--recipients=callout")
    assert (made["recipients"], made["server"]) == ("callout", "127.0.0.1:9")
    made = run("change_domain", "acme", "alpha.test", "--server=[2001:db8::1]:2500")
    assert (made["recipients"], made["server"]) == ("callout", "[2001:db8::1]:2500")
    stored = MailDomain.objects.get(name="alpha.test")
    assert (stored.recipient_policy, stored.server_host, stored.server_port) == ("callout", "2001:db8::1", 2500)
    assert stored.spam_action == "tag"
    assert MailDomain.objects.get(name="beta.test").recipient_policy == "known"


@pytest.mark.parametrize(
    ("listening", "host", "port", "expected"),
    [
        ("0.0.0.0", "127.0.0.1", 2525, True),
        ("0.0.0.0", "127.0.0.1", 2526, False),
        ("0.0.0.0", "192.0.2.77", 2525, False),
        ("127.0.0.1", "0.0.0.0", 2525, True),
        ("127.0.0.1", "192.0.2.77", 2525, False),
        ("127.0.0.1", "Lazaret.Localhost.", 25, True),
        ("127.0.0.1", "nowhere.invalid", 2525, False),
    ],
)
def test_own_address_is_known_by_any_name(settings, listening, host, port, expected):
    settings.SMTP_ADDRESS = provisioning.Address(listening, 2525)
    settings.SMTP_HOSTNAME = "lazaret.localhost"
    assert is_own_address(host, port) is expected


def test_user_looks_after_the_domains_given(db):
    made = provisioning.add_user(
        get_acme(), " New@Alpha.Test ", password="long enough so", name="N. Ew", domains=["alpha.test", "beta.test"]
    )
    with schema_context("sp_acme"):
        stored = User.objects.get(email="new@alpha.test")
        assert stored.check_password("long enough so")
        assert (stored.pk, stored.name, stored.is_provider_admin) == (made.pk, "N. Ew", False)
        administered = set(DomainAdmin.objects.filter(user=stored).values_list("domain_id", flat=True))
    assert administered == set(MailDomain.objects.filter(provider=get_acme()).values_list("pk", flat=True))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"email": "BOB@alpha.test"}, "bob@alpha.test is a user of Acme IT already."),
        ({"email": "nobody"}, "Email: Enter a valid email address."),
        ({"password": "short"}, "This password is too short. It must contain at least 10 characters."),
        ({"password": "password12"}, "This password is too common."),
        ({"domains": ["gamma.test"]}, "Acme IT has no domain 'gamma.test'."),
    ],
)
def test_user_with_bad_input_leaves_nothing(db, fields, sentence):
    wanted = {"email": "new@alpha.test", "password": "long enough so"} | fields
    with pytest.raises(ProvisioningError) as caught:
        provisioning.add_user(get_acme(), wanted.pop("email"), **wanted)
    assert str(caught.value) == sentence
    with schema_context("sp_acme"):
        assert not User.objects.filter(email="new@alpha.test").exists()


def test_mailbox_has_owner_and_aliases(db):
    owner = provisioning.get_user(get_acme(), "Bob@alpha.test")
    provisioning.add_mailbox(
        get_acme(), "Sales@Alpha.Test", owner=owner, aliases=["Shop@beta.test", "müller@alpha.test"]
    )
    with schema_context("sp_acme"):
        mailbox = Mailbox.objects.get(address="sales@alpha.test")
        assert mailbox.owner == owner
        assert set(mailbox.aliases.values_list("address", flat=True)) == {"shop@beta.test", "müller@alpha.test"}
    assert MailDomain.objects.get(pk=mailbox.domain_id).name == "alpha.test"


@pytest.mark.parametrize(
    ("address", "aliases", "sentence"),
    [
        ("bob@alpha.test", [], "There is a mailbox bob@alpha.test already."),
        ("new@alpha.test", ["bob@alpha.test"], "There is a mailbox bob@alpha.test already."),
        ("new@alpha.test", ["NEW@alpha.test"], "new@alpha.test cannot be its own alias."),
        ("new@alpha.test", ["x@gamma.test"], "Acme IT has no domain 'gamma.test'."),
        ("new@gamma.test", [], "Acme IT has no domain 'gamma.test'."),
        ("no address", [], "'no address' is no mail address such as someone@example.com."),
        ("a..b@alpha.test", [], "'a..b@alpha.test' is no mail address such as someone@example.com."),
        ("\0@alpha.test", [], "'\\x00@alpha.test' is no mail address such as someone@example.com."),
        ("x" * 65 + "@alpha.test", [], f"'{'x' * 65}@alpha.test' is no mail address such as someone@example.com."),
    ],
)
def test_mailbox_with_bad_input_leaves_nothing(db, address, aliases, sentence):
    with pytest.raises(ProvisioningError) as caught:
        provisioning.add_mailbox(get_acme(), address, aliases=aliases)
    assert str(caught.value) == sentence
    with schema_context("sp_acme"):
        assert not Mailbox.objects.filter(address="new@alpha.test").exists()
        assert not MailboxAlias.objects.exists()


def test_alias_of_another_mailbox_is_taken(db):
    provisioning.add_mailbox(get_acme(), "sales@alpha.test", aliases=["shop@alpha.test"])
    with pytest.raises(ProvisioningError, match=r"^shop@alpha.test is an alias of sales@alpha.test already\.$"):
        provisioning.add_mailbox(get_acme(), "shop@alpha.test")


def test_two_who_want_one_address_at_once_do_not_both_get_it(committed, monkeypatch):
    """One as a mailbox, one as an alias, which no constraint keeps apart."""
    both = threading.Barrier(2)
    find = Mailbox.full_clean

    def clean_together(mailbox, *args, **kwargs):
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1)  # each has found the address free by now, where nothing keeps the other waiting
        find(mailbox, *args, **kwargs)

    monkeypatch.setattr(Mailbox, "full_clean", clean_together)

    def add(address: str, *aliases: str) -> str:
        try:
            provisioning.add_mailbox(get_acme(), address, aliases=aliases)
        except ProvisioningError as error:
            return str(error)
        finally:
            connection.close()
        return ""

    with ThreadPoolExecutor(2) as threads:
        told = [threads.submit(add, "sales@alpha.test"), threads.submit(add, "shop@alpha.test", "sales@alpha.test")]
        answers = [answer.result(20) for answer in told]
    assert sorted(map(bool, answers)) == [False, True]
    assert "sales@alpha.test" in max(answers)


def test_another_provider_may_have_the_same_person(db):
    globex = provisioning.get_provider("globex")
    provisioning.add_user(globex, "bob@alpha.test", password="long enough so")
    with schema_context("sp_globex"):
        assert User.objects.filter(email="bob@alpha.test").count() == 1


def test_commands_make_a_provider_ready_for_mail(db, tmp_path, monkeypatch):
    (tmp_path / "logo.png").write_bytes(PNG)
    made = run(
        "provision_provider",
        "initech",
        "--name=Initech",
        "--hostname=initech.localhost",
        f"--logo={tmp_path / 'logo.png'}",
    )
    assert (made["schema"], made["portal"].partition(":8")[0]) == ("sp_initech", "http://initech.localhost")
    domain = run("add_domain", "initech", "initech.test", "--server=mail.initech.test:25")
    assert (domain["time_zone"], domain["recipients"]) == ("UTC", "known")
    run("add_domain", "initech", "initrode.test", "--server=mail.initech.test:25", "--recipients=callout")
    assert MailDomain.objects.get(name="initrode.test").recipient_policy == "callout"
    user = run("add_user", "initech", "peter@initech.test", "--domain=initech.test")
    assert len(user["password"]) >= 16
    monkeypatch.setattr("sys.stdin", io.StringIO("long enough so\n"))
    admin = run("add_user", "initech", "bill@initech.test", "--provider-admin", "--password-stdin")
    assert admin == {
        "user": "bill@initech.test",
        "provider": "initech",
        "provider_admin": True,
        "domains": [],
    }
    mailbox = run(
        "add_mailbox", "initech", "peter@initech.test", "--owner=peter@initech.test", "--alias=p@initech.test"
    )
    assert mailbox["aliases"] == ["p@initech.test"]
    with schema_context("sp_initech"):
        assert User.objects.get(email="peter@initech.test").check_password(user["password"])
        assert User.objects.get(email="bill@initech.test").check_password("long enough so")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["add_domain", "nobody", "x.test", "--server=h:25"],
            "There is no provider 'nobody'; there are: acme, globex.",
        ),
        (
            ["add_domain", "acme", "x.test", "--server=h:25", "--recipients=all"],
            "Error: argument --recipients: invalid choice: 'all' (choose from 'known', 'callout', 'anyone')",
        ),
        (
            ["change_domain", "acme", "alpha.test", "--recipients=all"],
            "Error: argument --recipients: invalid choice: 'all' (choose from 'known', 'callout', 'anyone')",
        ),
        (["change_domain", "acme", "alpha.test"], "Say what is to change about alpha.test."),
        (["change_domain", "acme", "gamma.test", "--recipients=known"], "Acme IT has no domain 'gamma.test'."),
        (
            ["change_domain", "acme", "alpha.test", "--recipients=anyone", "--server=mail server:25"],
            "'mail server' is neither a hostname nor an address.",
        ),
        (["add_mailbox", "acme", "x@alpha.test", "--owner=gus@gamma.test"], "Acme IT has no user 'gus@gamma.test'."),
        (
            ["provision_provider", "x1", "--name=X", "--hostname=x.test", "--logo=/nowhere/x.png"],
            "The logo /nowhere/x.png cannot be read: No such file or directory.",
        ),
    ],
)
def test_command_says_what_is_wrong_in_one_sentence(db, arguments, sentence):
    with pytest.raises(CommandError) as caught:
        call_command(*arguments)
    assert (str(caught.value), caught.value.returncode) == (sentence, 1)
    assert {*MailDomain.objects.values_list("recipient_policy", flat=True)} == {"known"}
