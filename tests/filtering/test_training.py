"""Teaching by command, in delivery order, and how well the mail that follows is judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from filtering.evidence import Evidence
from filtering.evidence.content import read_content
from filtering.learning.classifier import Classifier, get_model_path
from filtering.learning.corpus import BadCorpus, Labelled, list_labelled
from filtering.learning.training import Tally, teach
from filtering.learning.weights import Lessons, read_base
from filtering.pipeline import judge
from filtering.verdict import Action
from tests.corpus import unpack
from tests.filtering.mail import make_message, make_policy


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with override_settings(HOME=tmp_path / "home"):
        yield tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        label = "spam" if number % 2 else "ham"
        target = tmp_path / "mail" / label / f"{number // 10:02}" / f"inmail.{number:05}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"From: {label}@sender.test\nSubject: {label} {number}\n\nThe text of {label} is {label}.\n")
    return tmp_path / "mail"


def run(*arguments: object) -> str:
    out = StringIO()
    call_command("train_classifier", *map(str, arguments), stdout=out, stderr=StringIO())
    return out.getvalue()


def test_mail_is_listed_in_delivery_order_with_its_labels(folder: Path) -> None:
    listed = list_labelled(folder)

    assert [labelled.path.name for labelled in listed] == [f"inmail.{number:05}" for number in range(40)]
    assert [labelled.is_spam for labelled in listed] == [bool(number % 2) for number in range(40)]


def test_manifest_gives_labels_and_dates(tmp_path: Path) -> None:
    rows = ["label\tset\trelpath\tdate", "spam\tone\tb.eml\t2020-01-02", "ham\tone\ta.eml\t2020-01-03"]
    (tmp_path / "m.tsv").write_text("\n".join(rows) + "\n")
    listed = list_labelled(tmp_path, [tmp_path / "m.tsv"])

    assert listed == [
        Labelled(tmp_path / "one" / "b.eml", True, "2020-01-02"),
        Labelled(tmp_path / "one" / "a.eml", False, "2020-01-03"),
    ]


@pytest.mark.parametrize("text", ["label\tset\nx\ty\n", "label\tset\trelpath\nmaybe\tone\ta\n", "\xff\xfe"])
def test_wrong_manifest_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.tsv").write_bytes(text.encode("latin-1"))

    with pytest.raises(BadCorpus):
        list_labelled(tmp_path, [tmp_path / "m.tsv"])


def test_training_teaches_the_provider_and_everybody(db: None, home: Path, folder: Path) -> None:
    figures = json.loads(run(folder, "--provider", "acme", "--json"))
    classifier = Classifier.load(get_model_path())

    assert (figures["ham"], figures["spam"], figures["provider"]) == (20, 20, "acme")
    assert classifier.get_lessons("acme") == classifier.get_lessons("") == Lessons(20, 20)
    assert classifier.get_lessons("globex") == Lessons()
    assert classifier.weights.name == figures["model"]


def test_training_goes_on_from_what_was_learned(db: None, home: Path, folder: Path) -> None:
    run(folder, "--provider", "acme", "--limit", 10)
    run(folder, "--provider", "globex", "--limit", 6)
    classifier = Classifier.load(get_model_path())

    assert classifier.get_lessons("acme") == Lessons(5, 5)
    assert classifier.get_lessons("globex") == Lessons(3, 3)
    assert classifier.get_lessons("") == Lessons(8, 8)


def test_output_leaves_the_running_model_alone(db: None, home: Path, folder: Path) -> None:
    run(folder, "--output", home / "other.bin")

    assert not get_model_path().exists()
    assert Classifier.load(home / "other.bin").get_lessons("") == Lessons(20, 20)


def test_base_model_is_the_same_every_time(home: Path, folder: Path) -> None:
    run(folder, "--base", "--output", home / "one.npz")
    run(folder, "--base", "--output", home / "two.npz")
    one, two = read_base(home / "one.npz"), read_base(home / "two.npz")

    assert (one.array == two.array).all()
    assert one.lessons == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--provider", "nobody"], "no provider 'nobody'"),
        (["--provider", "acme", "--base"], "leave out --provider"),
        (["--manifest", "/does/not/exist"], "cannot be read"),
    ],
)
def test_wrong_arguments_are_one_sentence(db: None, home: Path, folder: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(folder, *arguments)


def test_directory_without_labels_is_one_sentence(db: None, home: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no files in folders named ham and spam"):
        run(tmp_path)
    with pytest.raises(CommandError, match="is no directory"):
        run(tmp_path / "missing")


def test_damaged_weights_stop_the_training(db: None, home: Path, folder: Path) -> None:
    get_model_path().parent.mkdir(parents=True)
    get_model_path().write_bytes(b"damaged")

    with pytest.raises(CommandError, match="no file of weights"):
        run(folder)
    assert get_model_path().read_bytes() == b"damaged"


def judge_all(classifier: Classifier, mail: list[Labelled]) -> Tally:
    tally = Tally()
    for labelled in mail:
        raw = labelled.path.read_bytes()
        evidence = Evidence(content=read_content(raw), classifier=classifier.classify(raw, "acme"))
        verdict = judge(make_message(raw), evidence, make_policy())
        tally.count(is_spam=labelled.is_spam, is_held=verdict.action is not Action.DELIVER)
    return tally


@pytest.fixture(scope="module")
def trec(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    return list_labelled(unpack(corpora, "trec", tmp_path_factory.mktemp("trec")))[:5000]


@pytest.mark.corpora
def test_two_thousand_lessons_of_ones_own_are_enough(trec: list[Labelled]) -> None:
    classifier = Classifier(read_base())
    teach(classifier, trec[:2000], provider="acme")
    tally = judge_all(classifier, trec[2000:])

    assert tally.spam_share >= 0.97, tally
    assert tally.ham_share <= 0.012, tally


@pytest.mark.corpora
def test_base_model_alone_holds_no_ham(trec: list[Labelled]) -> None:
    tally = judge_all(Classifier(read_base()), trec[:1500])

    assert tally.ham_held == 0, tally


@pytest.mark.corpora
@pytest.mark.parametrize("lessons", [50, 100, 200, 500, 1000])
def test_few_lessons_hold_little_ham(trec: list[Labelled], lessons: int) -> None:
    classifier = Classifier(read_base())
    teach(classifier, trec[:lessons], provider="acme")
    tally = judge_all(classifier, trec[lessons : lessons + 1000])

    assert tally.ham_share <= 0.01, tally
