"""From evidence and policy to a verdict: tables of what is found, and what follows from it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from filtering.evidence import Evidence, PtrEvidence, PtrStatus
from filtering.pipeline import CHECKS, judge, judge_client
from filtering.policy.values import PtrPolicy, ReleasePolicy
from filtering.verdict import Action, Category, Verdict
from tests.filtering.mail import ABSENT, IP, make_evidence, make_message, make_policy

DELIVER, TAG, QUARANTINE, REFUSE = Action.DELIVER, Action.TAG, Action.QUARANTINE, Action.REFUSE
EXPERIENCED = {"lessons": 5000, "model": "m"}
PORTAL = "https://acme.localhost"
AT = make_message().received_at


def outcome(verdict: Verdict) -> tuple[Category, Action]:
    return verdict.category, verdict.action


def test_mail_without_findings_is_clean_and_delivered() -> None:
    verdict = judge(make_message(), make_evidence(), make_policy())

    assert verdict == Verdict(DELIVER, Category.CLEAN, 0.0, (), 1)


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.001, (Category.CLEAN, DELIVER)),
        (0.79, (Category.CLEAN, DELIVER)),
        (0.80, (Category.SPAM, QUARANTINE)),
        (0.99, (Category.SPAM, QUARANTINE)),
        (0.999, (Category.SURE_SPAM, QUARANTINE)),
    ],
)
def test_experienced_classifier_decides_by_probability(probability: float, expected: tuple[Category, Action]) -> None:
    evidence = make_evidence(probability=probability, **EXPERIENCED)

    assert outcome(judge(make_message(), evidence, make_policy())) == expected


@pytest.mark.parametrize(("lessons", "category"), [(0, "clean"), (40, "clean"), (400, "spam"), (800, "sure_spam")])
def test_classifier_without_experience_is_capped(lessons: int, category: str) -> None:
    evidence = make_evidence(probability=1.0, lessons=lessons, model="m")

    assert judge(make_message(), evidence, make_policy()).category == category


def test_more_probable_never_earns_fewer_points() -> None:
    for lessons in (0, 10, 100, 500, 1000):
        evidence = [make_evidence(probability=step / 200, lessons=lessons, model="m") for step in range(201)]
        scores = [judge(make_message(), given, make_policy()).score for given in evidence]
        assert scores == sorted(scores)


def test_without_a_classifier_there_is_no_opinion() -> None:
    assert judge(make_message(), make_evidence(probability=0.99), make_policy()).findings == ()


def test_gtube_is_sure_spam() -> None:
    verdict = judge(make_message(), make_evidence(gtube=True), make_policy())

    assert outcome(verdict) == (Category.SURE_SPAM, QUARANTINE)
    assert [finding.check for finding in verdict.findings] == ["gtube"]


def test_eicar_is_a_virus_and_names_the_part() -> None:
    verdict = judge(make_message(), make_evidence(eicar="invoice.com"), make_policy())

    assert outcome(verdict) == (Category.VIRUS, QUARANTINE)
    assert "invoice.com" in verdict.findings[0].text


@pytest.mark.parametrize("action", [DELIVER, TAG, QUARANTINE])
def test_domain_chooses_what_is_done_with_spam(action: Action) -> None:
    spam = make_evidence(probability=0.9, **EXPERIENCED)
    sure = make_evidence(gtube=True)

    assert judge(make_message(), spam, make_policy(spam_action=action)).action is action
    assert judge(make_message(), sure, make_policy(sure_spam_action=action)).action is action


ALLOW, BLOCK = "allow", "block"
CLEAN, HELD, NO_RULE = (Category.CLEAN, DELIVER), (Category.POLICY, QUARANTINE), (Category.SURE_SPAM, QUARANTINE)


@pytest.mark.parametrize(
    ("rules", "sender", "header_from", "expected"),
    [
        ([("mailbox", ALLOW, "ann@a.test")], "ann@a.test", "", CLEAN),
        ([("mailbox", ALLOW, "ann@a.test")], "ANN@A.Test", "", CLEAN),
        ([("mailbox", ALLOW, "ann@a.test")], "bounce@list.test", "ann@a.test", CLEAN),
        ([("mailbox", ALLOW, "@a.test")], "ann@a.test", "", CLEAN),
        ([("mailbox", ALLOW, "@a.test")], "ann@sub.a.test", "", NO_RULE),
        ([("mailbox", ALLOW, "@a.test")], "ann@xa.test", "", NO_RULE),
        ([("mailbox", ALLOW, "nn@a.test")], "ann@a.test", "", NO_RULE),
        ([("mailbox", BLOCK, "ann@a.test")], "ann@a.test", "", HELD),
        ([("mailbox", BLOCK, "ann@a.test")], "", "ann@a.test", HELD),
        ([("mailbox", ALLOW, "ann@a.test"), ("domain", BLOCK, "ann@a.test")], "ann@a.test", "", CLEAN),
        ([("domain", BLOCK, "ann@a.test"), ("provider", ALLOW, "ann@a.test")], "ann@a.test", "", HELD),
        ([("provider", BLOCK, "ann@a.test"), ("mailbox", ALLOW, "@a.test")], "ann@a.test", "", CLEAN),
        ([("mailbox", BLOCK, "@a.test"), ("mailbox", ALLOW, "ann@a.test")], "ann@a.test", "", CLEAN),
        ([("mailbox", ALLOW, "@a.test"), ("mailbox", BLOCK, "ann@a.test")], "ann@a.test", "", HELD),
        ([("mailbox", ALLOW, "ann@a.test"), ("mailbox", BLOCK, "eve@e.test")], "eve@e.test", "ann@a.test", HELD),
        ([("mailbox", ALLOW, "@")], "", "", NO_RULE),
        ([("mailbox", ALLOW, "")], "", "", NO_RULE),
    ],
)
def test_sender_rules(
    rules: list[tuple[str, str, str]], sender: str, header_from: str, expected: tuple[Category, Action]
) -> None:
    evidence = make_evidence(gtube=True, from_address=header_from)

    assert outcome(judge(make_message(sender=sender), evidence, make_policy(*rules))) == expected


def test_allow_rule_delivers_no_virus() -> None:
    policy = make_policy(("mailbox", ALLOW, "ann@sender.test"))

    assert outcome(judge(make_message(), make_evidence(eicar="x.com"), policy)) == (Category.VIRUS, QUARANTINE)


def test_allow_rule_has_no_say_about_reverse_dns() -> None:
    policy = make_policy(("mailbox", ALLOW, "ann@sender.test"), ptr_action="quarantine")

    assert outcome(judge(make_message(), make_evidence(ptr=ABSENT), policy)) == (Category.POLICY, QUARANTINE)
    assert judge_client(IP, ABSENT, replace(policy, ptr_action=""), AT) is not None


@pytest.mark.parametrize(
    ("choice", "refused", "expected", "score"),
    [
        ("", True, (Category.POLICY, REFUSE), 0.0),
        ("refuse", True, (Category.POLICY, REFUSE), 0.0),
        ("quarantine", False, (Category.POLICY, QUARANTINE), 0.0),
        ("score", False, (Category.CLEAN, DELIVER), 2.0),
        ("off", False, (Category.CLEAN, DELIVER), 0.0),
    ],
)
def test_domain_chooses_what_is_done_without_reverse_dns(
    choice: str, refused: bool, expected: tuple[Category, Action], score: float
) -> None:
    policy = make_policy(ptr_action=choice)
    verdict = judge(make_message(), make_evidence(ptr=ABSENT), policy)

    assert (judge_client(IP, ABSENT, policy, AT) is not None) is refused
    assert (outcome(verdict), verdict.score) == (expected, score)


@pytest.mark.parametrize("status", [status for status in PtrStatus if status is not PtrStatus.NONE])
@pytest.mark.parametrize("choice", ["refuse", "quarantine", "score"])
def test_only_an_absent_name_has_consequences(status: PtrStatus, choice: str) -> None:
    ptr, policy = PtrEvidence(status, "mail.bank.test", detail="SERVFAIL"), make_policy(ptr_action=choice)
    verdict = judge(make_message(), make_evidence(ptr=ptr), policy)

    assert judge_client(IP, ptr, policy, AT) is None
    assert outcome(verdict) == (Category.CLEAN, DELIVER)
    assert len(verdict.findings) == (status not in {PtrStatus.OK, PtrStatus.SKIPPED})


def test_policy_points_teach_nothing() -> None:
    evidence = make_evidence(ptr=ABSENT, probability=0.9, from_address="eve@e.test", **EXPERIENCED)
    policy = make_policy(("domain", BLOCK, "eve@e.test"), ptr_action="score")
    verdict = judge(make_message(), evidence, policy)
    content = judge(make_message(), replace(evidence, ptr=PtrEvidence()), make_policy())

    assert {finding.check for finding in verdict.findings if not finding.learn} == {"reverse_dns", "sender_rules"}
    assert verdict.content_score == content.score == verdict.score - 2.0


def test_refusal_is_what_the_release_says() -> None:
    refusal = judge_client(IP, ABSENT, make_policy(portal_url=PORTAL), AT)

    assert refusal is not None
    assert f"{refusal.code} {refusal.enhanced} {refusal.text}" == (
        "553 5.3.0 Message rejected. The sending server has no reverse DNS entry; see "
        f"{PORTAL}/help/reverse-dns?ip={IP} for what to do. Reason: (1) Could not resolve PTR record for {IP}"
    )
    assert refusal.finding.learn is False


def test_refusal_by_rfc_7372_is_a_matter_of_the_release() -> None:
    rules = PtrPolicy(code=550, enhanced="5.7.25", text="No PTR for {ip}: {help_url}", help_url="https://help.test/")
    refusal = judge_client(IP, ABSENT, make_policy(release=ReleasePolicy(2, ptr=rules)), AT)

    assert refusal is not None
    assert (refusal.code, refusal.enhanced, refusal.text) == (550, "5.7.25", f"No PTR for {IP}: https://help.test/")


LONG = f"https://{'.'.join(['x' * 63] * 3)}.{'x' * 61}:65535"  # a hostname of 253 characters
LONG_IP = "2001:db8:1234:5678:9abc:def0:1234:5678"


@pytest.mark.parametrize("ip", [IP, LONG_IP])
@pytest.mark.parametrize(("more", "told"), [("", True), ("x" * 20, False)])
def test_refusal_names_page_and_reason_whole_however_long(ip: str, more: str, told: bool) -> None:
    """The page is told the address where the reply has room for it."""
    release = ReleasePolicy(2, ptr=PtrPolicy(text=more + PtrPolicy().text))
    told = told or ip == IP
    refusal = judge_client(ip, ABSENT, make_policy(release=release, portal_url=LONG), AT)

    assert refusal is not None
    assert len(f"{refusal.code} {refusal.enhanced} {refusal.text}\r\n") <= 512
    assert f"see {LONG}/help/reverse-dns{f'?ip={ip}' if told else ''} for what to do. " in refusal.text
    assert refusal.text.endswith(f"Reason: (1) Could not resolve PTR record for {ip}")


def test_refusal_fits_one_reply_line_in_ascii() -> None:
    rules = PtrPolicy(text="Grüße\r\n250 OK {ip} " + "x" * 2000)
    refusal = judge_client(IP, ABSENT, make_policy(release=ReleasePolicy(2, ptr=rules)), AT)

    assert refusal is not None
    line = f"{refusal.code} {refusal.enhanced} {refusal.text}\r\n".encode("ascii")
    assert len(line) == 512
    assert line.count(b"\n") == line.count(b"\r") == 1


@pytest.mark.parametrize("name", [name for name, _ in CHECKS])
def test_every_check_can_be_switched_off_by_the_release(name: str) -> None:
    evidence = make_evidence(
        ptr=ABSENT,
        gtube=True,
        eicar="x.com",
        from_address="eve@e.test",
        probability=0.9,
        problems=("several boundaries",),
        **EXPERIENCED,
    )
    policy = make_policy(("domain", BLOCK, "eve@e.test"), release=ReleasePolicy(3, disabled=frozenset({name})))

    assert {finding.check for finding in judge(make_message(), evidence, policy).findings} == {
        other for other, _ in CHECKS
    } - {name}
    if name == "reverse_dns":
        assert judge_client(IP, ABSENT, policy, AT) is None


# N14
def test_what_may_be_read_in_two_ways_is_never_clean_silently() -> None:
    problems = ("several boundaries", "no Date field", "other characters in base64")
    verdict = judge(make_message(), make_evidence(problems=problems), make_policy())

    assert outcome(verdict) == (Category.CLEAN, DELIVER)
    assert [(finding.check, finding.points) for finding in verdict.findings] == [("structure", 0.0)]
    assert verdict.findings[0].text.endswith(": several boundaries, other characters in base64.")


# N17
def test_what_is_only_absent_needs_no_word() -> None:
    evidence = make_evidence(problems=("no From field", "no Date field", "no Message-ID field"))

    assert judge(make_message(), evidence, make_policy()).findings == ()


def test_release_sets_points_and_thresholds() -> None:
    release = ReleasePolicy(4, spam_score=1.0, sure_spam_score=3.0, points={"gtube": 2.0})

    verdict = judge(make_message(), make_evidence(gtube=True), make_policy(release=release))

    assert (verdict.category, verdict.score, verdict.policy_release) == (Category.SPAM, 2.0, 4)


def test_same_input_gives_the_same_verdict_also_from_stored_evidence() -> None:
    evidence = make_evidence(
        ptr=ABSENT, gtube=True, probability=0.93, lessons=321, model="m", subject="Größe \u2603", problems=("a", "b")
    )
    stored = Evidence.from_json(json.loads(json.dumps(evidence.to_json())))
    policy = make_policy(("domain", ALLOW, "@sender.test"), ptr_action="score")
    verdicts = {judge(make_message(), given, policy) for given in (evidence, stored, evidence)}

    assert len(verdicts) == 1
