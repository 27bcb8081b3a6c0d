"""How well and how fast mail is judged: `.venv/bin/python benchmarks/judging.py CORPORA [--json] [--origins]`.

CORPORA is a folder of labelled mail: `<set>.tar.zst` with `<set>.MANIFEST.tsv[.zst]` beside it, and HAM_NONLIST.tsv,
the ham that no mailing list carried. Everything is judged as the gateway judges it, by policy release 1, without DNS.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from filtering.evidence import ClassifierEvidence, Evidence
from filtering.evidence.content import read_content
from filtering.learning.classifier import Classifier
from filtering.learning.corpus import Labelled, list_labelled, shuffle
from filtering.learning.training import Tally, teach
from filtering.learning.weights import Weights, make_empty, read_base
from filtering.message import InboundMessage, Peer
from filtering.pipeline import judge
from filtering.policy.values import Policy, ReleasePolicy
from filtering.verdict import Action, Verdict

PROVIDER = "acme"
POLICY = Policy(ReleasePolicy(1))
ARRIVED = datetime(2026, 1, 1, tzinfo=UTC)
BASE_SETS = ("sa", "csdmc", "spam-modern", "ham-lists", "bounces")
LESSONS, JUDGED = 2000, 3000
CURVE = (0, 50, 100, 200, 500, 1000, 2000, 5000)


def unpack(corpora: Path, names: Sequence[str], target: Path) -> None:
    """Unpack sets of labelled mail and their manifests into a folder."""
    for name in names:
        with (corpora / f"{name}.tar.zst").open("rb") as packed:
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(packed)
            with tarfile.open(fileobj=reader, mode="r|") as archive:
                archive.extractall(target, filter="data")
        manifest = f"{name}.MANIFEST.tsv"
        if (plain := corpora / manifest).is_file():
            (target / manifest).write_bytes(plain.read_bytes())
        else:
            with (corpora / f"{manifest}.zst").open("rb") as packed, (target / manifest).open("wb") as out:
                zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(packed, out)


def list_sets(folder: Path, names: Sequence[str]) -> list[Labelled]:
    return list_labelled(folder, [folder / f"{name}.MANIFEST.tsv" for name in names])


def find_nonlist(corpora: Path, folder: Path) -> set[Path]:
    """The files of ham that carry no mark of a mailing list."""
    with (corpora / "HAM_NONLIST.tsv").open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {folder / row["set"] / row["relpath"] for row in rows}


def judge_raw(raw: bytes, opinion: ClassifierEvidence) -> Verdict:
    message = InboundMessage("0" * 20, raw, "sender@example.test", Peer("192.0.2.1"), ARRIVED)
    return judge(message, Evidence(content=read_content(raw), classifier=opinion), POLICY)


def measure(
    classifier: Classifier, mail: Sequence[Labelled], nonlist: set[Path], *, trusted: bool = False
) -> dict[str, Any]:
    """What is held of the mail; `trusted` judges as if the classifier had all its experience with the provider."""
    everything, people = Tally(), Tally()
    for labelled in mail:
        raw = labelled.path.read_bytes()
        opinion = classifier.classify(raw, PROVIDER)
        if trusted:
            opinion = ClassifierEvidence(opinion.probability, 1_000_000, opinion.model)
        held = judge_raw(raw, opinion).action is not Action.DELIVER
        everything.count(is_spam=labelled.is_spam, is_held=held)
        if labelled.path in nonlist:
            people.count(is_spam=False, is_held=held)
    return {
        "spam": make_share(everything.spam_held, everything.spam),
        "ham": make_share(everything.ham_held, everything.ham),
        "ham of no list": make_share(people.ham_held, people.ham),
    }


def make_share(held: int, total: int) -> dict[str, Any]:
    """A share with its 95 % interval (Wilson)."""
    if not total:
        return {"held": 0, "of": 0, "share": 0.0, "from": 0.0, "to": 1.0}
    share, z = held / total, 1.96
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return {
        "held": held,
        "of": total,
        "share": share,
        "from": max(0.0, middle - spread),
        "to": min(1.0, middle + spread),
    }


def rank(classifier: Classifier, mail: Sequence[Labelled], ham_share: float) -> float:
    """The share of spam above the point that holds so much of the ham: what the ranking is worth by itself."""
    scores: dict[bool, list[float]] = {True: [], False: []}
    for labelled in mail:
        scores[labelled.is_spam].append(classifier.classify(labelled.read(), PROVIDER).probability)
    ham = np.sort(scores[False])[::-1]
    return float(np.mean(np.array(scores[True]) > ham[int(ham_share * len(ham))]))


def measure_base(trec: list[Labelled], nonlist: set[Path]) -> dict[str, Any]:
    base = Classifier(read_base())
    return {
        "by the first policy": measure(base, trec, nonlist),
        "as if it were experienced": measure(base, trec, nonlist, trusted=True),
        "spam above 2 % of ham": rank(base, trec, 0.02),
    }


def measure_taught(trec: list[Labelled], nonlist: set[Path], start: Weights) -> dict[str, Any]:
    classifier = Classifier(start)
    before = teach(classifier, trec[:LESSONS], provider=PROVIDER)
    return {
        "while learning": {
            "spam": make_share(before.spam_held, before.spam),
            "ham": make_share(before.ham_held, before.ham),
        },
        "afterwards": measure(classifier, trec[LESSONS : LESSONS + JUDGED], nonlist),
    }


def measure_apart(folder: Path, nonlist: set[Path]) -> dict[str, Any]:
    """The same with mail on which no number of the classifier or of its points was chosen.

    The second half of trec is the same server some weeks later. Of sa the ham reaches later dates than the spam.
    """
    trec, other = list_sets(folder, ["trec"])[5000:], list_sets(folder, ["sa"])
    return {
        "trec, messages 7,001 to 10,000 after 5,001 to 7,000": measure_taught(trec, nonlist, read_base()),
        "sa without a base model, the rest after 2,000": measure_taught(other, nonlist, make_empty()),
        "sa in mixed order": measure_taught(shuffle(other, folder), nonlist, make_empty()),
    }


def measure_curve(trec: list[Labelled], nonlist: set[Path]) -> dict[str, Any]:
    """What is held of the next 1,000 messages after so many lessons."""
    classifier, taught, found = Classifier(read_base()), 0, {}
    for lessons in CURVE:
        teach(classifier, trec[taught:lessons], provider=PROVIDER)
        taught = lessons
        found[str(lessons)] = measure(classifier, trec[lessons : lessons + 1000], nonlist)
    return found


def measure_origins(folder: Path, nonlist: set[Path]) -> dict[str, Any]:
    """A model of all other origins, judging the one that was left out: the sets that have both labels."""
    found = {}
    for left_out in ("sa", "csdmc", "trec"):
        others = [name for name in (*BASE_SETS, "trec") if name != left_out]
        classifier = Classifier(make_empty())
        teach(classifier, shuffle(list_sets(folder, others), folder))
        mail = list_sets(folder, [left_out])
        found[left_out] = {
            "as if it were experienced": measure(classifier, mail, nonlist, trusted=True),
            "spam above 2 % of ham": rank(classifier, mail, 0.02),
        }
    return found


def measure_speed(mail: Sequence[Labelled]) -> dict[str, Any]:
    """Milliseconds a message of one thread, by step."""
    classifier = Classifier(read_base())
    steps: dict[str, Callable[[bytes], object]] = {
        "read_content": read_content,
        "classify": lambda raw: classifier.classify(raw, PROVIDER),
        "learn": lambda raw: classifier.learn(raw, spam=True, provider=PROVIDER),
    }
    raws = [labelled.path.read_bytes() for labelled in mail]
    found = {name: time_each(step, raws) for name, step in steps.items()}
    message = InboundMessage("0" * 20, raws[0], "sender@example.test", Peer("192.0.2.1"), ARRIVED)
    evidence = [Evidence(content=read_content(raw), classifier=classifier.classify(raw, PROVIDER)) for raw in raws]
    found["judge"] = time_each(lambda given: judge(message, given, POLICY), evidence)
    return found


def time_each(step: Callable[[Any], object], inputs: Sequence[Any]) -> dict[str, float]:
    times = []
    for given in inputs:
        started = time.perf_counter()
        step(given)
        times.append((time.perf_counter() - started) * 1000)
    return {"mean": float(np.mean(times)), "median": float(np.median(times)), "p99": float(np.quantile(times, 0.99))}


def show(value: Any, indent: int = 0) -> None:
    for key, inner in value.items():
        pad = "  " * indent
        if isinstance(inner, dict) and "share" in inner:
            interval = f"({inner['from']:.2%} to {inner['to']:.2%})"
            print(f"{pad}{key}: {inner['held']} of {inner['of']} = {inner['share']:.2%} {interval}")
        elif isinstance(inner, dict):
            print(f"{pad}{key}:")
            show(inner, indent + 1)
        else:
            print(f"{pad}{key}: {inner:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--origins", action="store_true", help="also train on all sets but one, and judge that one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lazaret-judging-") as name:
        folder = Path(name)
        unpack(options.corpora, (*BASE_SETS, "trec") if options.origins else ("trec",), folder)
        nonlist = find_nonlist(options.corpora, folder)
        trec = list_sets(folder, ["trec"])
        found = {
            "milliseconds a message": measure_speed(trec[: LESSONS + JUDGED]),
            "the base model alone, all of trec": measure_base(trec, nonlist),
            f"the base model and {LESSONS} lessons, the next {JUDGED}": measure_taught(trec, nonlist, read_base()),
            f"{LESSONS} lessons without a base model, the next {JUDGED}": measure_taught(trec, nonlist, make_empty()),
            "the next 1,000 after so many lessons": measure_curve(trec, nonlist),
        }
        if options.origins:
            found["mail on which points and calibration were not chosen"] = measure_apart(folder, nonlist)
            found["a model of all other origins"] = measure_origins(folder, nonlist)
    if options.json:
        json.dump(found, sys.stdout, indent=1)
    else:
        show(found)


if __name__ == "__main__":
    main()
