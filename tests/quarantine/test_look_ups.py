"""Mail is found by what reverse DNS said of its server, by the words in which that is counted."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.utils import timezone

from filtering.evidence import NOT_KNOWN_YET, PtrEvidence, PtrStatus
from quarantine.look_ups import ANSWERED, FAILED, SEARCHED
from quarantine.models import Message
from quarantine.platform.models import Unrouted
from quarantine.records import get_failure
from quarantine.tracing import find_everywhere, find_page, list_unrouted_ways
from quarantine.wanted import Wanted
from tests.kept_mail import keep
from tests.portal.browsing import browse, get_text

UNKNOWN = PtrStatus.UNKNOWN
SAID = [
    PtrEvidence(PtrStatus.OK, "mail.far.test"),
    PtrEvidence(PtrStatus.NONE, detail="NXDOMAIN"),
    PtrEvidence(PtrStatus.MISMATCH, "mail.far.test"),
    PtrEvidence(PtrStatus.MALFORMED, "mail"),
    PtrEvidence(PtrStatus.SKIPPED, detail="not asked about"),
    PtrEvidence(UNKNOWN, detail="SERVFAIL"),
    PtrEvidence(UNKNOWN, detail="timeout"),
    PtrEvidence(UNKNOWN, detail="forward look-up: REFUSED"),
    PtrEvidence(UNKNOWN, detail="NXDOMAIN; the rule is off while look-ups fail"),
    PtrEvidence(UNKNOWN, detail="forward look-up: no such record; the rule is off while look-ups fail"),
    PtrEvidence(UNKNOWN, detail="unconfirmed absence"),
    PtrEvidence(UNKNOWN, detail="busy"),
    PtrEvidence(UNKNOWN, detail="forward look-up: stale"),
    PtrEvidence(UNKNOWN, detail="OSError"),
    PtrEvidence(UNKNOWN),
    NOT_KNOWN_YET,
]
WORDS = [*SEARCHED, "oserror", "unknown"]


def matches(word: str, ptr: PtrEvidence) -> bool:
    """By what is counted: the answer, or why there was none."""
    if word in ANSWERED:
        return ptr.status == word
    return bool(get_failure(ptr)) if word == FAILED else ptr.failure == word


def make_message(ptr: PtrEvidence, number: int) -> None:
    message = keep("bob@alpha.test")
    evidence = {"ptr": {"status": ptr.status.value, "name": ptr.name, "detail": ptr.detail}}
    Message.objects.filter(pk=message.pk).update(ptr_status=ptr.status, evidence=evidence, helo=str(number))


def make_unrouted(ptr: PtrEvidence, number: int) -> None:
    Unrouted.objects.create(
        trace_id=f"0{number}", at=timezone.now(), client_ip="192.0.2.9", ptr_status=ptr.status, ptr_detail=ptr.detail,
        helo=str(number), sender="", recipient="you@nowhere.test", outcome="refused", cause="relay_denied", reply="550",
    )  # fmt: skip


@pytest.fixture
def all_said(acme) -> None:
    for number, ptr in enumerate(SAID):
        make_message(ptr, number)
        make_unrouted(ptr, number)


@pytest.mark.parametrize("word", WORDS)
def test_each_word_finds_the_mail_that_is_counted_by_it_and_no_other(all_said, word):
    expected = {number for number, ptr in enumerate(SAID) if matches(word, ptr)}
    assert expected
    hits, _ = find_everywhere(Wanted(reverse_dns=word), ["sp_acme"], limit=100)
    messages = Message.objects.filter(recipients__in=[pk for _, _, pk in hits])
    assert {int(message.helo) for message in messages} == expected
    unrouted = find_page(list_unrouted_ways(Wanted(reverse_dns=word))).items
    assert {int(row.helo) for row in unrouted} == expected


def test_it_is_searched_on_the_page_and_by_the_command(acme, capsys):
    for number, detail in enumerate(("timeout", "SERVFAIL")):
        make_message(PtrEvidence(UNKNOWN, detail=detail), number)
    keep("bob@alpha.test", sender="known@far.test")
    text = get_text(browse("dora").get("/trace/", {"reverse_dns": "timeout"}))
    assert "reverse DNS “no answer in time”" in text
    assert text.count('<tr role="row"><td class="from"') == 1
    call_command("trace", "--reverse-dns", "failed", "--provider", "acme")
    assert len(capsys.readouterr().out.splitlines()) >= 2
    call_command("trace", "--reverse-dns", "servfail")
    assert "  PTR        unknown (0 ms): SERVFAIL" in capsys.readouterr().out
