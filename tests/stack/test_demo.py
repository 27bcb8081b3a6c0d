"""The demo's world: the mail server keeps octets, the name server answers as its zone says."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.query
import dns.rcode
import dns.reversename
import dns.rrset
import pytest
from django.db import connection
from django_tenants.utils import schema_context

from filtering.evidence import Evidence
from filtering.evidence.content import read_content
from filtering.learning.classifier import Classifier
from filtering.learning.corpus import list_labelled
from filtering.message import InboundMessage, Peer
from filtering.pipeline import judge
from filtering.policy.values import Policy, ReleasePolicy
from filtering.verdict import Category
from portal.settings.environment import PROJECT, Address
from portal.stack.demo import choose_port, demo_environment
from portal.stack.demo.cast import DOMAINS, PASSWORD, PROVIDERS
from portal.stack.demo.lessons import write_lessons
from portal.stack.demo.letters import DRAFTS, compose
from portal.stack.demo.letters.make import Kind
from portal.stack.demo.logos import draw_logo
from portal.stack.demo.maildir import Maildirs
from portal.stack.demo.nameserver import NameServer
from portal.stack.demo.people import make_provider
from portal.stack.demo.sink import start_sink
from portal.stack.demo.zone import CLIENTS, Reverse
from portal.stack.postgres import find_free_port
from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, SenderRule, User
from portal.tenants.provisioning import find_logo_type
from quarantine.management.sender import Answer, Letter, send_all
from tests.dns_server import DnsServer

OCTETS = [
    b"Subject: plain\r\n\r\ntext\r\n",
    b".\r\n..\r\n",
    b"Subject: odd ends\r\n\r\nbare\nlf and bare\rcr\r\n",
    b"Subject: \xff\xfe\r\n\r\n\0 and " + b"long " * 30_000 + b"\r\n",
]


async def send_to_sink(maildirs: Maildirs, letters: list[Letter]) -> list[Answer]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = await start_sink(maildirs, listener=listener, max_bytes=10_000_000)
    answers: list[Answer] = []
    address = Address("127.0.0.1", listener.getsockname()[1])
    await send_all(letters, server=address, concurrency=2, report=answers.append)
    server.close()
    return answers


def test_sink_writes_the_octets_that_came(tmp_path):
    maildirs = Maildirs(tmp_path, ["one.example"])
    letters = [Letter(str(n), raw, "", ("A.b@one.example",)) for n, raw in enumerate(OCTETS)]
    answers = asyncio.run(send_to_sink(maildirs, letters))
    assert {answer.reply.code for answer in answers} == {250}
    arrivals = maildirs.list_arrivals("a.b@one.example", 100)
    assert {maildirs.read(arrival.address, arrival.name) for arrival in arrivals} == set(OCTETS)
    assert not list((tmp_path / "a.b@one.example" / "tmp").iterdir())


@pytest.mark.parametrize(
    "address", ["a@two.example", "../x@one.example", "a/b@one.example", ".@one.example", "..@one.example"]
)
def test_sink_takes_mail_for_its_domains_only(tmp_path, address):
    maildirs = Maildirs(tmp_path / "mail", ["one.example"])
    (answer,) = asyncio.run(send_to_sink(maildirs, [Letter("x", b"x\r\n", "", (address,))]))
    assert answer.reply.code in {550, 501, 553}
    assert not list(tmp_path.rglob("*"))


def test_sink_gives_every_recipient_a_copy(tmp_path):
    maildirs = Maildirs(tmp_path, ["one.example", "two.example"])
    letter = Letter("x", OCTETS[0], "s@x.example", ("a@one.example", "b@two.example", "c@three.example"))
    asyncio.run(send_to_sink(maildirs, [letter]))
    assert maildirs.list_addresses() == ["a@one.example", "b@two.example"]
    assert [maildirs.count(address) for address in maildirs.list_addresses()] == [1, 1]


def test_sink_that_cannot_write_asks_to_try_again(tmp_path):
    (tmp_path / "a@one.example").write_text("a file where the folder should be")
    (answer,) = asyncio.run(
        send_to_sink(Maildirs(tmp_path, ["one.example"]), [Letter("x", b"x\r\n", "", ("a@one.example",))])
    )
    assert answer.reply.code == 451


async def ask(name: str, kind: str, *, tcp: bool = False, upstream: tuple[Address, ...] = ()) -> dns.message.Message:
    server = NameServer(Address("127.0.0.1", find_free_port()), upstream=upstream)
    await server.start()
    query = dns.message.make_query(name, kind)
    send = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    try:
        return await send(query, "127.0.0.1", port=server.address.port, timeout=5)
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("ip", "rcode", "target"),
    [
        ("192.0.2.10", "NOERROR", "mail.flourmill.example."),
        ("2001:db8:25::10", "NOERROR", "mail6.lindgren-engineering.example."),
        ("203.0.113.66", "NOERROR", "mail.riverbank.example."),
        ("203.0.113.150", "NXDOMAIN", None),
        ("192.0.2.254", "NXDOMAIN", None),
        ("198.51.100.200", "SERVFAIL", None),
        ("8.8.8.8", "SERVFAIL", None),  # there is nobody to ask
    ],
)
@pytest.mark.parametrize("tcp", [False, True])
def test_reverse_dns_is_as_the_zone_says(ip, rcode, target, tcp):
    response = asyncio.run(ask(dns.reversename.from_address(ip).to_text(), "PTR", tcp=tcp))
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert [str(record.target) for rrset in response.answer for record in rrset] == ([target] if target else [])


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "found"),
    [
        ("mail.riverbank.example", "A", "NOERROR", ["198.51.100.12"]),
        ("mail.riverbank.example", "AAAA", "NOERROR", []),
        ("mail6.lindgren-engineering.example", "AAAA", "NOERROR", ["2001:db8:25::10"]),
        ("host-99.dsl.cheap-hosting.example", "A", "NXDOMAIN", []),
    ],
)
def test_forward_dns_is_as_the_zone_says(name, kind, rcode, found):
    response = asyncio.run(ask(name, kind))
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert [str(record) for rrset in response.answer for record in rrset] == found


def test_other_questions_go_to_the_resolvers_given():
    async def chain() -> dns.message.Message:
        class Upstream(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, addr):
                response = dns.message.make_response(dns.message.from_wire(data))
                response.answer.append(dns.rrset.from_text("lazaret.org.", 60, "IN", "A", "192.0.2.1"))
                self.transport.sendto(response.to_wire(), addr)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        server = NameServer(Address("127.0.0.1", find_free_port()), upstream=[Address("127.0.0.1", port)])
        await server.start()
        query = dns.message.make_query("lazaret.org", "A")
        try:
            return await dns.asyncquery.udp(query, "127.0.0.1", port=server.address.port, timeout=5)
        finally:
            await server.stop()
            transport.close()

    assert [str(record) for record in asyncio.run(chain()).answer[0]] == ["192.0.2.1"]


@pytest.mark.parametrize("octets", [b"", b"\0", b"junk that is no question", b"\xff" * 600])
def test_junk_gets_no_answer_and_does_no_harm(octets):
    server = NameServer(Address("127.0.0.1", 1), upstream=[])
    assert asyncio.run(server.reply(octets, max_size=0)) == b""


def test_demo_stands_beside_the_smtp_port():
    port = find_free_port()
    environment = demo_environment(port, {})
    assert environment["LAZARET_DEMO"] == "1"
    assert environment["LAZARET_XCLIENT"] == "127.0.0.0/8,::1"
    addresses = {environment["LAZARET_DEMO_SINK"], environment["LAZARET_DNS"], f"127.0.0.1:{port}"}
    assert len(addresses) == 3


def test_port_that_is_taken_is_not_chosen():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert choose_port(port) != port
    assert choose_port(70_000) < 65_536


def test_providers_of_the_demo_differ():
    assert len({provider.colour for provider in PROVIDERS}) == len({provider.slug for provider in PROVIDERS}) == 2
    assert all(len(provider.domains) == 2 for provider in PROVIDERS)
    assert len(set(DOMAINS)) == 4
    roles = [{person.role for person in provider.people} for provider in PROVIDERS]
    assert roles == [{"provider admin", "domain admin", "end user"}] * 2


def test_world_serves_moves_its_domains_and_ends_in_order(committed, tmp_path):
    domain = MailDomain.objects.first()
    MailDomain.objects.filter(pk=domain.pk).update(name=DOMAINS[0], server_port=4)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "sink").write_text("127.0.0.1:4\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        sink = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start_world(tmp_path, {"LAZARET_DEMO_SINK": sink, "LAZARET_DNS": f"127.0.0.1:{find_free_port()}"})
        try:
            port = wait_for_sink(tmp_path)
            assert port not in {4, taken.getsockname()[1]}
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                assert client.recv(4) == b"220 "
            MailDomain.objects.get(name=DOMAINS[0], server_port=port)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_resolvers_that_were_given_are_asked_by_the_demos_own(committed, tmp_path):
    MailDomain.objects.filter(pk=MailDomain.objects.first().pk).update(name=DOMAINS[0], server_port=4)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "sink").write_text("127.0.0.1:4\n")
    with DnsServer() as given:
        given.answer("lazaret.org", "A", "192.0.2.7")
        environment = demo_environment(find_free_port(), {"LAZARET_DNS": f"127.0.0.1:{given.address[1]}"})
        process = start_world(tmp_path, environment)
        try:
            wait_for_sink(tmp_path)
            port = int(environment["LAZARET_DNS"].rpartition(":")[2])
            for name, address in (("lazaret.org", "192.0.2.7"), ("mail.riverbank.example", "198.51.100.12")):
                response = dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", port=port, timeout=5)
                assert [str(record) for record in response.answer[0]] == [address]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_the_demos_name_server_never_asks_itself():
    ours = Address("127.0.0.1", 2527)
    assert NameServer(ours, upstream=[ours, Address("127.0.0.1", 53)]).upstream == [Address("127.0.0.1", 53)]


def start_world(home: Path, environment: dict[str, str]) -> subprocess.Popen:
    url = os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + connection.settings_dict["NAME"]
    variables = environment | {
        "LAZARET_HOME": str(home),
        "LAZARET_EMBEDDED": "1",
        "LAZARET_DEMO": "1",
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "portal.settings.embedded",
    }
    return subprocess.Popen([sys.executable, "manage.py", "demo_world"], cwd=PROJECT, env=os.environ | variables)


def wait_for_sink(home: Path) -> int:
    for _ in range(300):
        port = int((home / "demo" / "sink").read_text().rpartition(":")[2] or 4)
        if port != 4 and MailDomain.objects.filter(server_port=port).exists():
            return port
        time.sleep(0.1)
    raise AssertionError("the world did not start")


def test_mail_of_the_demo_is_of_every_kind_and_readable():
    assert {draft.kind for draft in DRAFTS} == set(Kind)
    assert len(DRAFTS) >= 60
    assert len({draft.name for draft in DRAFTS}) == len({draft.message_id for draft in DRAFTS}) == len(DRAFTS)
    for draft in DRAFTS:
        raw = compose(draft, datetime.now(UTC))
        assert b"\n" not in raw.replace(b"\r\n", b""), draft.name
        found = read_content(raw)
        assert not found.problems, draft.name
        assert found.message_id == draft.message_id
        assert found.gtube is (draft.kind is Kind.SURE_SPAM), draft.name
        assert bool(found.eicar) is (draft.kind is Kind.VIRUS), draft.name


def test_mail_of_the_demo_shows_what_it_is_meant_to_show():
    known = {address for provider in PROVIDERS for domain in provider.domains for address in list_addresses(domain)}
    senders = {draft.sender for draft in DRAFTS if draft.reply != 250}
    for draft in DRAFTS:
        assert draft.ip in CLIENTS, draft.name
        assert (set(draft.to) <= known) is (draft.kind is not Kind.UNKNOWN_MAILBOX), draft.name
        assert (draft.sender == "") <= (draft.kind is Kind.BOUNCE), draft.name
        assert draft.sender not in senders or draft.reply != 250, "a refused draft is known by its sender"
    assert any(len({address.partition("@")[2] for address in draft.to}) == 4 for draft in DRAFTS)
    assert any(draft.html for draft in DRAFTS)
    assert any(len(draft.subject) > 250 for draft in DRAFTS)
    assert {CLIENTS[draft.ip][0] for draft in DRAFTS} == set(Reverse)


def list_addresses(domain):
    return [address for person in domain.people for address in (person.email, *person.aliases)]


def test_every_draft_is_judged_as_it_is_meant_to_be(tmp_path):
    classifier = Classifier.load_for_learning(tmp_path / "none")
    write_lessons(tmp_path)
    for lesson in list_labelled(tmp_path):
        classifier.learn(lesson.read(), spam=lesson.is_spam, provider="acme")
    policy = Policy(ReleasePolicy(1))
    for draft in DRAFTS:
        if draft.kind in EXPECTED:
            raw = compose(draft, datetime.now(UTC))
            evidence = Evidence(content=read_content(raw), classifier=classifier.classify(raw, "acme"))
            message = InboundMessage("x", raw, draft.sender, Peer(draft.ip), datetime.now(UTC))
            assert judge(message, evidence, policy).category is EXPECTED[draft.kind], draft.name


EXPECTED = {
    Kind.CLEAN: Category.CLEAN,
    Kind.NEWSLETTER: Category.CLEAN,
    Kind.BOUNCE: Category.CLEAN,
    Kind.SPAM: Category.SPAM,
    Kind.SURE_SPAM: Category.SURE_SPAM,
    Kind.VIRUS: Category.VIRUS,
    Kind.ODD_REVERSE_DNS: Category.CLEAN,
}


def test_people_and_rules_are_made_once(db, settings, tmp_path):
    settings.HOME = tmp_path
    for _ in range(2):
        for wanted in PROVIDERS:
            make_provider(wanted)
    with schema_context("sp_acme"):
        assert User.objects.get(email="ines@acme-it.example").is_provider_admin
        assert User.objects.get(email="theo@bluebird-bakery.example").check_password(PASSWORD)
        theo = Mailbox.objects.get(address="theo@bluebird-bakery.example")
        assert theo.aliases.count() == 2
        assert SenderRule.objects.get(mailbox=theo).action == "allow"
        assert SenderRule.objects.count() == 3
    clinic = MailDomain.objects.get(name="hollowoak-clinic.example")
    assert (clinic.ptr_action, clinic.server_port) == ("quarantine", settings.DEMO_SINK.port)


def test_logos_are_png_and_differ():
    logos = [draw_logo(provider.slug, provider.colour) for provider in PROVIDERS]
    assert logos[0] != logos[1]
    assert {find_logo_type(logo) for logo in logos} == {"image/png"}


def test_mail_server_takes_mail_of_a_domain_that_was_added_later(tmp_path):
    maildirs = Maildirs(tmp_path, None)
    [answer] = asyncio.run(send_to_sink(maildirs, [Letter("x", b"x\r\n", "", ("sales@new-customer.example",))]))
    assert answer.reply.code == 250
    assert maildirs.list_addresses() == ["sales@new-customer.example"]
    assert not any(map(maildirs.accepts, ("a@..", "a@/etc", "../a@b.example", "a@b", "a@.b.example")))
