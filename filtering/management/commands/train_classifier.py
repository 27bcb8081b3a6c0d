"""Teach the classifier labelled mail: `manage.py train_classifier DIR [--provider acme]`."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from filtering.learning.classifier import Classifier, get_model_path, hold_lock
from filtering.learning.corpus import BadCorpus, Labelled, list_labelled, shuffle
from filtering.learning.training import Tally, teach
from filtering.learning.weights import BASE_MODEL, BadWeights, make_empty, write_base
from portal.tenants.models import ServiceProvider

BASE_SHRINK = 0.3  # of another origin's weights, so much is left


class Command(BaseCommand):
    help = (
        "Teach the classifier a directory of labelled mail (folders named ham and spam, or manifests), in the order of"
        " delivery. Running gateways take up the new weights within two seconds."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("directory", type=Path)
        parser.add_argument("--provider", default="", metavar="SLUG", help="whose mail it is: teaches their part too")
        parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N messages")
        parser.add_argument("--manifest", type=Path, action="append", default=[], help="labels and dates (repeatable)")
        parser.add_argument("--base", action="store_true", help="make the base model that is shipped, from nothing")
        parser.add_argument("--output", type=Path, help="write there, and leave the running model alone")
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        self.quiet = options["json"]
        provider = options["provider"]
        if provider and options["base"]:
            raise CommandError("A base model is nobody's: leave out --provider.")
        if provider and not ServiceProvider.objects.filter(slug=provider).exists():
            raise CommandError(f"There is no provider {provider!r}.")
        mail = self._list(options)
        try:
            tally, name = self._make_base(mail, options) if options["base"] else self._teach(mail, options)
        except (OSError, BadWeights) as error:
            raise CommandError(str(error)) from error
        self._report(tally, name, provider)

    def _list(self, options: dict[str, Any]) -> list[Labelled]:
        try:
            mail = list_labelled(options["directory"], options["manifest"])
        except BadCorpus as error:
            raise CommandError(str(error)) from error
        if options["base"]:
            mail = shuffle(mail, options["directory"])
        return mail[: options["limit"]] if options["limit"] > 0 else mail

    def _teach(self, mail: list[Labelled], options: dict[str, Any]) -> tuple[Tally, str]:
        path = get_model_path()
        with hold_lock(path):
            classifier = Classifier.load_for_learning(path)
            tally = teach(classifier, mail, provider=options["provider"], tell=self._tell)
            classifier.save(options["output"] or path)
        return tally, classifier.weights.name

    def _make_base(self, mail: list[Labelled], options: dict[str, Any]) -> tuple[Tally, str]:
        weights = make_empty()
        weights.name = f"base-{len(mail)}"
        tally = teach(Classifier(weights), mail, tell=self._tell)
        write_base(weights, options["output"] or BASE_MODEL, shrink=BASE_SHRINK)
        return tally, weights.name

    def _tell(self, seen: int, tally: Tally) -> None:
        if not self.quiet:
            self.stderr.write(f"{seen} messages; before their lessons: {tally}")

    def _report(self, tally: Tally, name: str, provider: str) -> None:
        if self.quiet:
            figures = {
                "model": name,
                "provider": provider,
                "ham": tally.ham,
                "spam": tally.spam,
                "before_lessons": {"ham_held": tally.ham_held, "spam_held": tally.spam_held},
            }
            self.stdout.write(json.dumps(figures))
        else:
            self.stdout.write(f"Model {name} learned {tally.ham} ham and {tally.spam} spam.")
