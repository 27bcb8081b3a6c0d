"""What reverse DNS said of the sending server: the one vocabulary in which it is counted, searched and told."""

from __future__ import annotations

from django.db.models import CharField, F, Func, Q
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.lookups import Exact

from filtering.evidence import NOT_KNOWN_YET, PtrStatus

ANSWERED = ("ok", "none", "mismatch", "malformed", "skipped")  # the answer was had, whatever it was
FAILED = "failed"  # of what is searched: whatever it failed for
WORDS = {
    "ok": "a name that leads back",
    "none": "there is no name",
    "mismatch": "the name does not lead back",
    "malformed": "not a valid name",
    "skipped": "not asked",
    "servfail": "the name server failed",
    "refused": "the name server refused",
    "timeout": "no answer in time",
    "nxdomain": "a name server's “there is none” did not count",
    "no_such_record": "a name server's “no such record” did not count",
    "not_known_yet": "the transaction ended before there was an answer",
    "busy": "too many look-ups at once",
    "stale": "no new answer: an older one was used",
    "unconfirmed_absence": "a name server's “there is none” was not believed",
}
SEARCHED = {FAILED: "it could not be looked up"} | WORDS


class Failure(Func):
    """PtrEvidence.failure, of what the resolver said."""

    template = (
        "coalesce(nullif(lower(replace(split_part(split_part(%(expressions)s, '; ', 1), ': ', -1), ' ', '_')), ''),"
        f" '{PtrStatus.UNKNOWN.value}')"
    )
    output_field = CharField()


def name_failure(cause: str) -> str:
    return WORDS.get(cause, cause.replace("_", " "))


def of_message(word: str) -> Q:
    """Recipients of mail for whose sending server that was the answer, or the failure. No index has it."""
    detail = KeyTextTransform("detail", KeyTransform("ptr", "message__evidence"))
    return _says(word, "message__ptr_status", Failure(detail))


def of_unrouted(word: str) -> Q:
    return _says(word, "ptr_status", Failure(F("ptr_detail")))


def _says(word: str, status: str, failure: Failure) -> Q:
    if word in ANSWERED:
        return Q(**{status: word})
    unknown = Q(**{status: PtrStatus.UNKNOWN.value})
    return unknown & (~Q(Exact(failure, NOT_KNOWN_YET.failure)) if word == FAILED else Q(Exact(failure, word)))
