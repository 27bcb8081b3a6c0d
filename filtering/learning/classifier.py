"""The classifier: online logistic regression over hashed byte 4-grams (Goodman & Yih 2006, Sculley & Wachman 2007).

All gateway processes map one file of weights. Whoever has new weights renames them into place; a running classifier
looks for them at most once a second.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from django.conf import settings

from filtering.evidence import ClassifierEvidence
from filtering.learning.features import Slots, find_slots
from filtering.learning.reading import read_window
from filtering.learning.weights import BASE_MODEL, BadWeights, Lessons, Weights, open_weights, publish, read_base

log = logging.getLogger(__name__)

LEARNING_RATE = 10.0  # features of a message have length 1: a wrong verdict moves its margin by at most this
CALIBRATION = (2.25, -1.75)  # margin to log-odds, fitted on mail that was not learned from (docs/filtering.md)
MAX_MARGIN = 12.0
FOLLOW_SECONDS = 1.0


def get_model_path() -> Path:
    """Where the weights of this installation are."""
    return Path(settings.HOME) / "model" / "weights.bin"


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """One learner at a time: whoever teaches loads, learns and publishes inside this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Classifier:
    """Judges with the newest published weights, or learns on a private copy until it is saved.

    Judging is safe from many threads at once; learning is for one.
    """

    def __init__(self, weights: Weights, path: Path | None = None, stamp: tuple[int, int] | None = None) -> None:
        self._weights = weights
        self._path = path
        self._stamp = stamp
        self._looked_at = time.monotonic()
        self._looking = threading.Lock()

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """The classifier of this installation; a missing file is made from the base model.

        Never raises over the file: without a readable one the base model judges, and the log says so.
        """
        try:
            if not path.exists():
                publish(read_base(), path, replace=False)
            stamp = _get_stamp(path)  # before it is opened: what replaces it meanwhile is seen later
            return cls(open_weights(path), path, stamp)
        except (OSError, BadWeights) as error:
            log.error("classifier_weights_unreadable path=%s error=%s using=base", path, type(error).__name__)
            return cls(read_base(), path)

    @classmethod
    def load_for_learning(cls, path: Path) -> Classifier:
        """A private copy to teach. Raises OSError or BadWeights: what is there is never silently replaced."""
        weights = open_weights(path, writable=True) if path.exists() else read_base(BASE_MODEL)
        return cls(weights)

    def classify(self, raw: bytes, provider: str) -> ClassifierEvidence:
        """The probability that this provider would call the message spam; bounded, never raises."""
        self._follow()
        weights = self._weights
        margin = _get_margin(weights, find_slots(read_window(raw), provider))
        lessons = weights.lessons.get(provider, Lessons())
        return ClassifierEvidence(_to_probability(margin), lessons.balanced, weights.name)

    def learn(self, raw: bytes, *, spam: bool, provider: str = "") -> float:
        """Take one lesson and return the probability of spam that was given before it.

        Without a provider only what is common to all is taught.
        """
        weights = self._weights
        slots = find_slots(read_window(raw), provider)
        margin = _get_margin(weights, slots)
        error = float(spam) - 1 / (1 + math.exp(-margin))
        weights.array[slots] += np.float32(LEARNING_RATE * error / math.sqrt(len(slots)))
        for key in {"", provider}:
            weights.lessons[key] = weights.lessons.get(key, Lessons()).add(spam=spam)
        return _to_probability(margin)

    def get_lessons(self, provider: str) -> Lessons:
        return self._weights.lessons.get(provider, Lessons())

    @property
    def weights(self) -> Weights:
        return self._weights

    def save(self, path: Path) -> None:
        """Publish the weights under a new name; running classifiers take them up within a second or two."""
        self._weights.name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
        publish(self._weights, path)

    def _follow(self) -> None:
        """Take up newly published weights. A file that cannot be read leaves the old ones in place."""
        now = time.monotonic()
        if self._path is None or now - self._looked_at < FOLLOW_SECONDS or not self._looking.acquire(blocking=False):
            return
        try:
            self._looked_at = now
            stamp = _get_stamp(self._path)
            if stamp is not None and stamp != self._stamp:
                self._stamp = stamp
                self._weights = open_weights(self._path)
                log.info("classifier_weights_loaded model=%s", self._weights.name)
        except (OSError, BadWeights) as error:
            log.error("classifier_weights_unreadable path=%s error=%s using=old", self._path, type(error).__name__)
        finally:
            self._looking.release()


def _get_stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _get_margin(weights: Weights, slots: Slots) -> float:
    """How far the message is on the spam side, in units in which a message's features have length 1."""
    margin = float(weights.array[slots].sum()) / math.sqrt(len(slots))
    if not math.isfinite(margin):
        return 0.0
    return max(-MAX_MARGIN, min(margin, MAX_MARGIN))


def _to_probability(margin: float) -> float:
    slope, offset = CALIBRATION
    return 1 / (1 + math.exp(-slope * margin - offset))
