"""The classifier: what it reads, that it learns, whose lessons are whose, and how weights are shared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filtering.learning import classifier as module
from filtering.learning import weights as storage
from filtering.learning.classifier import Classifier
from filtering.learning.features import SLOT_BITS, find_slots
from filtering.learning.reading import WINDOW_BYTES, is_left_out, read_window
from filtering.learning.weights import (
    BASE_MODEL,
    BadWeights,
    Lessons,
    make_empty,
    open_weights,
    publish,
    read_base,
    write_base,
)

MAIL = b"From: ann@sender.test\r\nSubject: lunch\r\n\r\nShall we meet at noon?\r\n"
SPAM = b"From: eve@evil.test\r\nSubject: WIN\r\n\r\nClaim your prize now, dear winner!\r\n"
STAMPS = [
    "Received: from mx.sender.test (mx.sender.test [192.0.2.1])\r\n\tby mail.test; Mon, 1 Jan 2026 00:00:00 +0000",
    "Return-Path: <ann@sender.test>",
    "Delivered-To: bob@alpha.test",
    "X-Spam-Status: Yes, score=99",
    "X-Spam-Flag: YES",
    "X-Barracuda-Spam-Score: 3",
    "X-Rspamd-Score: 3",
    "X-DSpam-Result: Spam",
    "X-Ironport-Anti-Spam-Filtered: true",
    "X-Microsoft-Antispam: BCL:9",
    "X-MS-Exchange-Organization-SCL: 9",
    "X-Forefront-Antispam-Report: SFV:SPM",
    "X-Mimecast-Spam-Score: 9",
    "X-Proofpoint-Spam-Details: rule=spam",
    "X-Virus-Scanned: clean",
    "X-Amavis-Alert: BAD",
    "Authentication-Results: mx.test; spf=fail",
    "ARC-Seal: i=1; cv=none",
    "Received-SPF: fail",
    "X-Policyd-Weight: 9",
    "XStatus: x",
    "XLevel: x",
    "XChecker-Version: x",
    "X-UUID: 1",
    "X-Miltered: at mx",
    "Status: RO",
    "X-Status: A",
    "X-Keywords: junk",
    "X-UID: 7",
    "Lines: 7",
    "Content-Length: 70",
    "List-Id: <l.list.test>",
    "List-Unsubscribe: <https://list.test/>",
    "Precedence: bulk",
    "Errors-To: l-bounces@list.test",
    "X-BeenThere: l@list.test",
    "X-Mailman-Version: 2.1",
    "Mailing-List: contact l@list.test",
    "X-Mailing-List: l@list.test",
    "Sender: l-bounces@list.test",
    "X-Spam_score_int: 99",
    "X-Cpanel-MailScanner-SpamCheck: spam",
    "X-Brightmail-Tracker: AAAA",
    "X_CMAE_Category: 0,0",
    "X-OriginalArrivalTime: 01 Jan 2026 00:00:00.0 (UTC)",
    "X-Source-Args: /usr/sbin/mail",
    "X-AMP-Result: UNKNOWN",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model" / "weights.bin"


def make_classifier() -> Classifier:
    return Classifier(make_empty())


def teach_pair(classifier: Classifier, provider: str, *, times: int = 10) -> None:
    for _ in range(times):
        classifier.learn(SPAM, spam=True, provider=provider)
        classifier.learn(MAIL, spam=False, provider=provider)


@pytest.mark.parametrize("stamp", STAMPS)
def test_what_others_stamped_on_a_message_is_not_read(stamp: str) -> None:
    stamped = stamp.encode() + b"\r\n" + MAIL

    assert read_window(stamped) == read_window(MAIL)
    assert read_window(stamped.replace(stamp.encode(), stamp.upper().encode())) == read_window(MAIL)


@pytest.mark.parametrize(
    "name",
    ["From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "Content-Type", "MIME-Version", "X-Mailer"]
    + ["User-Agent", "In-Reply-To", "References", "X-Priority", "Organization", "Importance"],
)
def test_what_the_writer_wrote_is_read(name: str) -> None:
    assert not is_left_out(name.encode())


def test_line_ends_and_the_mbox_line_make_no_difference() -> None:
    stored = b"From ann@sender.test Mon Jan  1 00:00:00 2026\n" + MAIL.replace(b"\r\n", b"\n")

    assert read_window(stored) == read_window(MAIL)


def test_no_more_is_read_than_the_window() -> None:
    assert len(read_window(MAIL + b"x" * 100_000)) == WINDOW_BYTES
    assert len(read_window(b"X-Long: " + b"y" * 1_000_000)) <= WINDOW_BYTES


def test_heap_of_headers_does_not_push_the_text_out() -> None:
    heap = b"".join(b"X-Filler-%d: words of the harmless kind\r\n" % number for number in range(500))

    assert b"Claim your prize" in read_window(heap + SPAM)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=6000))
def test_any_octets_are_judged(raw: bytes) -> None:
    slots = find_slots(read_window(raw), "acme")

    assert len(slots) > 0
    assert int(slots.max()) < 1 << SLOT_BITS
    assert 0 < _shared.classify(raw, "acme").probability < 1


_shared = make_classifier()


def test_it_learns() -> None:
    classifier = make_classifier()
    teach_pair(classifier, "acme")

    assert classifier.classify(SPAM, "acme").probability > 0.9
    assert classifier.classify(MAIL, "acme").probability < 0.1


def test_lessons_of_one_provider_are_its_own_experience() -> None:
    classifier = make_classifier()
    teach_pair(classifier, "acme", times=3)

    assert classifier.classify(MAIL, "acme").lessons == 6
    assert classifier.classify(MAIL, "globex").lessons == 0
    assert classifier.get_lessons("") == Lessons(3, 3)


def test_lessons_of_one_kind_are_no_experience() -> None:
    classifier = make_classifier()
    for _ in range(50):
        classifier.learn(SPAM, spam=True, provider="acme")
    classifier.learn(MAIL, spam=False, provider="acme")

    assert classifier.classify(SPAM, "acme").lessons == 2


def test_what_a_provider_calls_spam_counts_more_there_than_elsewhere() -> None:
    classifier = make_classifier()
    teach_pair(classifier, "acme", times=3)

    at_home, elsewhere = (classifier.classify(SPAM, provider).probability for provider in ("acme", "globex"))
    assert at_home > elsewhere


def test_judging_changes_nothing() -> None:
    classifier = make_classifier()
    teach_pair(classifier, "acme", times=2)
    before = classifier.weights.array.copy()

    assert classifier.classify(SPAM, "acme") == classifier.classify(SPAM, "acme")
    assert np.array_equal(before, classifier.weights.array)


def test_missing_weights_are_made_from_the_base_model(path: Path) -> None:
    classifier = Classifier.load(path)

    assert path.is_file()
    assert classifier.weights.name == read_base().name
    assert not classifier.weights.array.flags.writeable


def test_base_model_is_small_and_knows_no_provider() -> None:
    base = read_base()

    assert BASE_MODEL.stat().st_size <= 3_000_000
    assert base.lessons == {}
    assert np.isfinite(base.array).all()
    assert np.count_nonzero(base.array) > 10_000


def test_published_weights_are_what_was_learned(path: Path) -> None:
    learner = make_classifier()
    teach_pair(learner, "acme")
    learner.save(path)
    loaded = Classifier.load(path)

    assert loaded.classify(SPAM, "acme") == learner.classify(SPAM, "acme")
    assert loaded.get_lessons("acme") == Lessons(10, 10)


def test_running_classifier_takes_up_new_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Classifier.load(path)
    before = running.classify(SPAM, "acme")
    learner = Classifier.load_for_learning(path)
    teach_pair(learner, "acme")
    learner.save(path)

    assert running.classify(SPAM, "acme") == before  # looked for at most once a second
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 5)
    assert running.classify(SPAM, "acme") == learner.classify(SPAM, "acme")


def test_learning_is_private_until_it_is_saved(path: Path) -> None:
    running = Classifier.load(path)
    octets = path.read_bytes()
    learner = Classifier.load_for_learning(path)
    teach_pair(learner, "acme")

    assert path.read_bytes() == octets
    assert running.get_lessons("acme") == Lessons()


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "header", "version"])
def test_damaged_weights_are_not_used(path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Classifier.load(path)
    octets = path.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"x" * 100,
        "cut": octets[: len(octets) // 2],
        "header": octets[:12] + b"\xff" * 50 + octets[62:],
        "version": octets.replace(b'"bits": 22', b'"bits": 21', 1),
    }[damage]
    path.write_bytes(damaged)

    with pytest.raises(BadWeights):
        open_weights(path)
    assert Classifier.load(path).weights.name == read_base().name
    with pytest.raises(BadWeights):
        Classifier.load_for_learning(path)
    assert path.read_bytes() == damaged  # nothing of a person's is overwritten


def test_running_classifier_keeps_its_weights_when_new_ones_are_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Classifier.load(path)
    before = running.classify(SPAM, "acme")
    replacement = path.with_name("new")
    replacement.write_bytes(b"damaged")
    replacement.rename(path)
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 5)

    assert running.classify(SPAM, "acme") == before


def test_weights_published_first_are_not_replaced_by_the_base(path: Path) -> None:
    learner = make_classifier()
    teach_pair(learner, "acme", times=1)
    learner.save(path)
    publish(read_base(), path, replace=False)

    assert open_weights(path).lessons["acme"] == Lessons(1, 1)
    assert [found.name for found in path.parent.iterdir()] == ["weights.bin"]


def test_file_that_cannot_be_written_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Classifier.load(path)
    octets = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        make_classifier().save(path)
    assert path.read_bytes() == octets
    assert [found.name for found in path.parent.iterdir()] == ["weights.bin"]


def test_base_model_survives_storing_in_eight_bits(tmp_path: Path) -> None:
    learner = make_classifier()
    teach_pair(learner, "")
    write_base(learner.weights, tmp_path / "base.npz", shrink=1.0)
    stored = read_base(tmp_path / "base.npz")

    largest = np.abs(learner.weights.array).max()
    assert np.allclose(stored.array, learner.weights.array, atol=largest / 127)


def test_processes_that_start_together_agree_on_the_weights(path: Path) -> None:
    code = (
        "import sys, pathlib; from filtering.learning.classifier import Classifier;"
        f" print(Classifier.load(pathlib.Path({str(path)!r})).weights.name)"
    )
    root = str(Path(module.__file__).resolve().parents[2])
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root, env={**os.environ})
        for _ in range(3)
    ]
    names = {process.communicate(timeout=60)[0].decode().strip() for process in running}

    assert names == {read_base().name}
