"""Teaching the classifier a list of labelled mail, and how well it would have judged each before its lesson."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from filtering.learning.classifier import Classifier
from filtering.learning.corpus import Labelled

HELD_PROBABILITY = 0.8  # what earns the points of spam under the first policy release
PROGRESS_EVERY = 500


@dataclass(slots=True)
class Tally:
    """How many of each kind, and how many of them were held."""

    ham: int = 0
    ham_held: int = 0
    spam: int = 0
    spam_held: int = 0

    def count(self, *, is_spam: bool, is_held: bool) -> None:
        if is_spam:
            self.spam += 1
            self.spam_held += is_held
        else:
            self.ham += 1
            self.ham_held += is_held

    @property
    def ham_share(self) -> float:
        return self.ham_held / self.ham if self.ham else 0.0

    @property
    def spam_share(self) -> float:
        return self.spam_held / self.spam if self.spam else 0.0

    def __str__(self) -> str:
        return (
            f"spam held {self.spam_held} of {self.spam} ({self.spam_share:.2%}),"
            f" ham held {self.ham_held} of {self.ham} ({self.ham_share:.2%})"
        )


def teach(
    classifier: Classifier,
    mail: Sequence[Labelled],
    *,
    provider: str = "",
    tell: Callable[[int, Tally], None] = lambda seen, tally: None,
) -> Tally:
    """One lesson a message, in order; the tally is of the opinions before the lessons. Raises OSError."""
    tally = Tally()
    for seen, labelled in enumerate(mail, start=1):
        probability = classifier.learn(labelled.read(), spam=labelled.is_spam, provider=provider)
        tally.count(is_spam=labelled.is_spam, is_held=probability >= HELD_PROBABILITY)
        if seen % PROGRESS_EVERY == 0 or seen == len(mail):
            tell(seen, tally)
    return tally
