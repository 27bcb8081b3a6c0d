"""A provider's own lessons make the classifier strong: figures on mail of one server, in delivery order."""

from __future__ import annotations

import shutil

import pytest

from tests.corpus import Sample, delivery_order, list_samples, unpack
from tests.world import World, send_all

pytestmark = [pytest.mark.corpora, pytest.mark.e2e]

LESSONS, MESSAGES = 2000, 3000


def lay_out(samples: list[Sample], folder) -> None:
    for sample in samples:
        label = folder / ("spam" if sample.is_spam else "ham")
        label.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, label / sample.path.name)


def test_after_2000_lessons_95_percent_of_spam_is_held_and_at_most_2_percent_of_ham(world: World, corpora, tmp_path):
    samples = delivery_order(list_samples(corpora, "trec", unpack(corpora, "trec", tmp_path)))
    lay_out(samples[:LESSONS], tmp_path / "lessons")
    world.stack.manage("train_classifier", str(tmp_path / "lessons"), "--provider", "kestrel")
    judged = samples[LESSONS : LESSONS + MESSAGES]

    letters = [(sample.read(), "someone@sender.example", "lea@kestrel.test") for sample in judged]
    sent = send_all(world.stack.smtp, letters, connections=10)

    assert [one.code for one in sent] == [250] * MESSAGES
    held = {
        trace
        for (trace,) in world.rows(
            "SELECT m.trace_id FROM sp_kestrel.quarantine_message m JOIN sp_kestrel.quarantine_recipient r"
            " ON r.message_id = m.id WHERE r.state = 'quarantined' AND r.address = 'lea@kestrel.test'"
        )
    }
    spam = [one.trace_id in held for one, sample in zip(sent, judged, strict=True) if sample.is_spam]
    ham = [one.trace_id in held for one, sample in zip(sent, judged, strict=True) if not sample.is_spam]
    print(f"spam held {sum(spam)} of {len(spam)}, ham held {sum(ham)} of {len(ham)}")
    assert sum(spam) >= 0.95 * len(spam)
    assert sum(ham) <= 0.02 * len(ham)
