"""Exceptions from the reverse DNS rule: what may be granted, what they do to a verdict, and who hears of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_tenants.utils import schema_context

from filtering.evidence import PtrEvidence, PtrStatus
from filtering.pipeline import judge, judge_client
from filtering.policy import ptr_exceptions
from filtering.policy.ptr_exceptions import end, grant, name_scopes, parse_network
from filtering.policy.values import PtrException as Exception_
from filtering.policy.values import ReleasePolicy
from filtering.verdict import Action, Category
from portal.tenants.models import MailDomain
from portal.tenants.people.models import PtrException
from portal.tenants.provisioning import ProvisioningError
from tests.filtering.mail import ABSENT, IP, make_evidence, make_message, make_policy

AT = make_message().received_at
LATER = AT + timedelta(days=1)


def make_exception(network: str = IP, until: datetime = LATER) -> Exception_:
    return Exception_(network, until)


# What may be granted


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("192.0.2.25", "192.0.2.25"),
        (" [192.0.2.25]. ", "192.0.2.25"),
        ("192.0.2.25/32", "192.0.2.25"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("2001:DB8::/48", "2001:db8::/48"),
        ("IPv6:2001:db8::25%eth0", "2001:db8::25"),
        ("::ffff:192.0.2.25", "192.0.2.25"),
    ],
)
def test_an_address_or_a_small_network_may_be_excepted(typed, kept):
    assert parse_network(typed) == kept


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("192.0.2.0/23", "192.0.2.0/23 is too large: at most an IPv4 network of /24 can be excepted."),
        ("0.0.0.0/0", "0.0.0.0/0 is too large: at most an IPv4 network of /24 can be excepted."),
        ("2001:db8::/47", "2001:db8::/47 is too large: at most an IPv6 network of /48 can be excepted."),
        ("192.0.2.25/24", "No network begins at 192.0.2.25/24. Did you mean 192.0.2.0/24, or 192.0.2.25 alone?"),
        ("192.0.2.0/33", "/33 is no size of a network: write it as in 192.0.2.0/24."),
        ("192.0.2.0/", "/ is no size of a network: write it as in 192.0.2.0/24."),
        ("10.1.2.3", "10.1.2.3 is no public address: the rule never asks about it."),
        ("192.168.7.0/24", "192.168.7.0/24 is no public address: the rule never asks about it."),
        ("fd00::/48", "fd00::/48 is no public address: the rule never asks about it."),
        ("mail.far.test", "Give an address such as 192.0.2.25, or a network such as 192.0.2.0/24."),
        ("", "Give an address such as 192.0.2.25, or a network such as 192.0.2.0/24."),
    ],
)
def test_what_may_not_be_excepted_is_said_in_a_sentence(typed, said):
    with pytest.raises(ProvisioningError) as error:
        parse_network(typed)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("days", "reason", "said"),
    [
        (91, "why", "An exception lasts 1, 7, 30, 90 days, not 91."),
        (0, "why", "An exception lasts 1, 7, 30, 90 days, not 0."),
        (7, " \n\0", "Give a reason: others will ask why."),
        (7, "x" * 301, "The reason has 301 characters; at most 300 are kept."),
    ],
)
def test_nothing_is_granted_without_an_end_and_a_reason(acme, days, reason, said):
    with pytest.raises(ProvisioningError, match=said):
        grant(IP, domain_id=None, days=days, reason=reason, by="alice@acme.test")
    assert not PtrException.objects.exists()


@pytest.mark.parametrize("days", [1, 7, 30, 90])
def test_an_exception_ends_when_it_was_said(acme, days):
    before = timezone.now()
    made = grant(IP, domain_id=None, days=days, reason="their\nISP is  slow", by="alice@acme.test")
    assert before + timedelta(days=days) <= made.until <= timezone.now() + timedelta(days=days)
    assert (made.reason, made.created_by, made.ended_at) == ("their ISP is slow", "alice@acme.test", None)


def test_the_same_twice_is_refused_until_the_first_has_ended(acme):
    first = grant(IP, domain_id=5, days=1, reason="why", by="a@acme.test")
    with pytest.raises(ProvisioningError, match=f"{IP} is excepted already, until .* UTC. End that exception first"):
        grant(f"[{IP}]", domain_id=5, days=90, reason="why", by="a@acme.test")
    grant(IP, domain_id=None, days=1, reason="why", by="a@acme.test")
    assert end(PtrException.objects.filter(pk=first.pk), by="b@acme.test") == 1
    grant(IP, domain_id=5, days=90, reason="why", by="a@acme.test")
    assert PtrException.objects.count() == 3


def test_there_is_an_end_to_their_number(acme, monkeypatch):
    monkeypatch.setattr(ptr_exceptions, "MAX_IN_FORCE", 2)
    for last in (1, 2):
        grant(f"192.0.2.{last}", domain_id=5, days=1, reason="why", by="a@acme.test")
    with pytest.raises(ProvisioningError, match="There are 2 exceptions in force already. End some of them first."):
        grant("192.0.2.3", domain_id=5, days=1, reason="why", by="a@acme.test")
    grant("192.0.2.3", domain_id=6, days=1, reason="why", by="a@acme.test")


def test_who_ended_it_is_kept_and_is_never_written_over(acme):
    rows = PtrException.objects.filter(pk=grant(IP, domain_id=5, days=1, reason="why", by="a@acme.test").pk)
    assert (end(rows, by="b@acme.test"), end(rows, by="c@acme.test")) == (1, 0)
    assert rows.get().ended_by == "b@acme.test"
    ran_out = PtrException.objects.create(network=IP, until=timezone.now(), reason="why", created_by="a@acme.test")
    assert end(PtrException.objects.filter(pk=ran_out.pk), by="b@acme.test") == 0


# What it does to a verdict


@pytest.mark.parametrize("choice", ["", "refuse", "quarantine", "score"])
def test_an_excepted_client_is_neither_refused_nor_held_nor_scored(choice):
    policy = make_policy(ptr_action=choice, ptr_exceptions=(make_exception(),))
    verdict = judge(make_message(), make_evidence(ptr=ABSENT), policy)
    assert judge_client(IP, ABSENT, policy, AT) is None
    assert (verdict.action, verdict.category, verdict.score) == (Action.DELIVER, Category.CLEAN, 0.0)


def test_the_verdict_says_of_the_exception_and_until_when_but_not_who_made_it():
    policy = make_policy(ptr_exceptions=(make_exception("192.0.2.0/24", datetime(2026, 1, 8, 9, 30, tzinfo=UTC)),))
    [finding] = judge(make_message(), make_evidence(ptr=ABSENT), policy).findings
    assert (finding.check, finding.points, finding.learn) == ("reverse_dns", 0.0, False)
    assert finding.text == (
        "Could not resolve PTR record for 192.0.2.25; "
        "an admin made an exception for 192.0.2.0/24 until 2026-01-08 09:30 UTC"
    )


@pytest.mark.parametrize("status", [PtrStatus.OK, PtrStatus.SKIPPED, PtrStatus.UNKNOWN])
def test_nothing_is_said_of_an_exception_that_made_no_difference(status):
    policy, evidence = make_policy(), make_evidence(ptr=PtrEvidence(status, "mail.sender.test"))
    excepting = replace(policy, ptr_exceptions=(make_exception(),))
    assert judge(make_message(), evidence, policy) == judge(make_message(), evidence, excepting)


@pytest.mark.parametrize("status", [PtrStatus.MISMATCH, PtrStatus.MALFORMED])
def test_a_name_that_does_not_fit_costs_an_excepted_client_nothing(status):
    policy, evidence = make_policy(), make_evidence(ptr=PtrEvidence(status, "mail.sender.test"))
    assert judge(make_message(), evidence, policy).score == 0.5
    excepting = replace(policy, ptr_exceptions=(make_exception(),))
    assert judge(make_message(), evidence, excepting).score == 0.0


def test_points_of_the_release_do_not_undo_an_exception():
    release = ReleasePolicy(2, points={"reverse_dns": 9.0})
    policy = make_policy(release=release, ptr_action="score")
    assert judge(make_message(), make_evidence(ptr=ABSENT), policy).score == 9.0
    excepting = replace(policy, ptr_exceptions=(make_exception(),))
    assert judge(make_message(), make_evidence(ptr=ABSENT), excepting).score == 0.0


@pytest.mark.parametrize(
    ("network", "until", "refused"),
    [
        (IP, AT + timedelta(microseconds=1), False),
        (IP, AT, True),
        (IP, AT - timedelta(days=1), True),
        ("192.0.2.0/24", LATER, False),
        ("192.0.2.26", LATER, True),
        ("192.0.3.0/24", LATER, True),
        ("2001:db8::/48", LATER, True),
    ],
)
def test_the_messages_own_time_and_client_count(network, until, refused):
    """Judged again in a year, the verdict is the same: no clock is asked."""
    policy = make_policy(ptr_exceptions=(make_exception(network, until),))
    assert (judge_client(IP, ABSENT, policy, AT) is not None) is refused
    assert (judge(make_message(), make_evidence(ptr=ABSENT), policy).action is Action.REFUSE) is refused


def test_of_several_the_one_that_lasts_longest_is_named():
    short, long = make_exception(until=LATER), make_exception("192.0.2.0/24", LATER + timedelta(days=6))
    [finding] = judge(
        make_message(), make_evidence(ptr=ABSENT), make_policy(ptr_exceptions=(short, long, short))
    ).findings
    assert "192.0.2.0/24 until 2026-01-08" in finding.text


# The operator's command


def call(*arguments: str):
    output = StringIO()
    call_command("ptr_exception", *arguments, "--json", stdout=output)
    return json.loads(output.getvalue())


def test_the_operator_grants_lists_and_ends(db):
    made = call("grant", "acme", "192.0.2.0/24", "--domain", "Alpha.test", "--days", "30", "--reason", "moving")
    assert (made["network"], made["domain"], made["created_by"]) == ("192.0.2.0/24", "alpha.test", "operator")
    wide = call("grant", "acme", IP, "--all-domains", "--reason", "ours", "--by", "Olga")
    assert (wide["domain"], wide["created_by"]) == ("all domains", "Olga")
    assert call("list", "acme") == {"exceptions": [made, wide]}
    assert call("list", "globex") == {"exceptions": []}
    ended = call("end", "acme", str(made["number"]))
    assert ended["ended_by"] == "operator"
    assert call("list", "acme") == {"exceptions": [wide]}
    assert call("list", "acme", "--all") == {"exceptions": [ended, wide]}
    with schema_context("sp_acme"):
        assert PtrException.objects.get(pk=made["number"]).domain_id == MailDomain.objects.get(name="alpha.test").pk


def test_the_operators_list_is_read_on_a_terminal(db):
    with schema_context("sp_acme"):
        grant(IP, domain_id=None, days=1, reason="\x1b[2Jmoving", by="alice@acme.test")
    output = StringIO()
    call_command("ptr_exception", "list", "acme", stdout=output)
    head, first, last = output.getvalue().splitlines()
    assert head.split("  ")[0] == "number"
    for label, value in (("network", IP), ("domain", "all domains"), ("created by", "alice@acme.test")):
        assert first[head.index(label) :].startswith(value)  # each below its label
    assert "ended" not in head
    assert "\x1b" not in first
    assert last == "1 exception. Times are UTC."
    with schema_context("sp_acme"):
        grant("192.0.3.1", domain_id=None, days=1, reason="x", by="alice@acme.test")
        end(PtrException.objects.filter(network=IP), by="olga")
    output = StringIO()
    call_command("ptr_exception", "list", "acme", "--all", stdout=output)
    head, first, second, last = output.getvalue().splitlines()
    assert first[head.index("ended by") :].startswith("olga")
    assert second[head.index("ended by") :].startswith(" ")
    assert last == "2 exceptions. Times are UTC."


def test_a_list_asks_for_the_domains_that_it_names_only(db, django_assert_num_queries):
    with schema_context("sp_acme"):
        alpha = MailDomain.objects.get(name="alpha.test").pk
        made = [grant(IP, domain_id=pk, days=1, reason="x", by="alice@acme.test") for pk in (alpha, None)]
        made.append(PtrException(domain_id=0))
        with django_assert_num_queries(1) as asked:
            assert name_scopes(made) == {alpha: "alpha.test", None: "all domains", 0: "a removed domain"}
        assert "WHERE" in asked[0]["sql"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "nobody"], "There is no provider 'nobody'"),
        (["grant", "acme", IP, "--domain", "gamma.test", "--reason", "x"], "acme has no domain 'gamma.test'."),
        (["grant", "acme", "192.0.0.0/16", "--all-domains", "--reason", "x"], "192.0.0.0/16 is too large"),
        (["grant", "acme", IP, "--all-domains"], "Give a reason"),
        (["grant", "acme", IP, "--all-domains", "--reason", "x", "--days", "365"], "not 365"),
        (["end", "acme", "999999"], "Exception 999999 is not in force."),
    ],
)
def test_the_operator_is_told_what_is_wrong(db, arguments, said):
    with pytest.raises(CommandError, match=said):
        call_command("ptr_exception", *arguments)
    with schema_context("sp_acme"):
        assert not PtrException.objects.exists()
