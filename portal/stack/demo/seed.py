"""Fills the demo: people, lessons for the classifier, mail by SMTP, reports. Goes on where it was broken off."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db.models import Q
from django_tenants.utils import schema_context

from portal.settings.environment import Address
from portal.stack.demo.cast import PROVIDERS
from portal.stack.demo.lessons import write_lessons
from portal.stack.demo.letters import DRAFTS, Draft, compose
from portal.stack.demo.people import make_provider
from portal.stack.demo.world import get_folder
from portal.stack.demo.zone import CLIENTS
from portal.stack.process import StackError
from portal.tenants.models import ServiceProvider
from quarantine.management.sender import Answer, Letter, send_all
from quarantine.models import Message, Recipient, State

CONCURRENCY = 4
ROUNDS = 20  # the gateway learns of the new domains within moments; so many tries, a second apart
Tell = Callable[[str], None]


def seed(tell: Tell) -> bool:
    """Make the demo, and say the steps. False: it is there already. StackError where the gateway does not answer."""
    if is_seeded():
        return False
    for wanted in PROVIDERS:
        provider = make_provider(wanted)
        tell(
            f"provider {provider.name} at {wanted.hostname}: {len(wanted.domains)} domains, {len(wanted.people)} people"
        )
    do_once("taught", lambda: teach(tell))
    send_drafts(tell)
    try:
        do_once("reported", lambda: report(tell))
    except CommandError as error:  # the demo is of use without; the next start tries again
        tell(f"no quarantine report could be made: {error}")
    else:
        mark("seeded")
    return True


def is_seeded() -> bool:
    slugs = [wanted.slug for wanted in PROVIDERS]
    return is_marked("seeded") and ServiceProvider.objects.filter(slug__in=slugs).count() == len(slugs)


def is_marked(step: str) -> bool:
    return (get_folder() / step).is_file()


def mark(step: str) -> None:
    get_folder().mkdir(parents=True, exist_ok=True)
    (get_folder() / step).write_text(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")


def do_once(step: str, act: Callable[[], None]) -> None:
    if not is_marked(step):
        act()
        mark(step)


def teach(tell: Tell) -> None:
    """Give the classifier the experience of an installation that has run for a while."""
    folder = get_folder() / "lessons"
    number = write_lessons(folder)
    for wanted, share in zip(PROVIDERS, (1.0, 0.6), strict=True):
        call_command(
            "train_classifier", folder, provider=wanted.slug, limit=int(number * share), json=True, stdout=StringIO()
        )
    tell(f"the classifier learned from {number} messages")


def send_drafts(tell: Tell) -> None:
    """Send what has not arrived yet; StackError where some of it cannot be sent."""
    missing = list_missing()
    replies: Counter[int] = Counter()
    for _ in range(ROUNDS):
        if not missing:
            break
        tell(f"sending {len(missing)} messages by SMTP to {settings.SMTP_ADDRESS}")
        answers = send(missing)
        missing = [draft for draft in missing if answers[draft.name].reply.code != draft.reply]
        replies.update(answer.reply.code for answer in answers.values())
        if missing:
            time.sleep(1)
    if missing:
        raise StackError(
            f"{len(missing)} messages of the demo got another reply than expected, such as {missing[0].name}."
        )
    tell_results(tell)


def send(drafts: list[Draft]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}

    def report_answer(answer: Answer) -> None:
        answers[answer.name] = answer

    asyncio.run(send_all(make_letters(drafts), server=find_gateway(), concurrency=CONCURRENCY, report=report_answer))
    return answers


def make_letters(drafts: list[Draft]) -> Iterator[Letter]:
    now = datetime.now(UTC)
    for draft in drafts:
        helo = CLIENTS[draft.ip][1]
        yield Letter(draft.name, compose(draft, now), draft.sender, draft.to, client_ip=draft.ip, helo=helo)


def find_gateway() -> Address:
    host, port = settings.SMTP_ADDRESS.host, settings.SMTP_ADDRESS.port
    return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104 - everywhere: loopback too


def list_missing() -> list[Draft]:
    """The drafts that no provider has a trace of."""
    ids = {draft.message_id for draft in DRAFTS}
    senders = {draft.sender for draft in DRAFTS if draft.reply != 250}
    found: set[str] = set()
    for wanted in PROVIDERS:
        with schema_context(f"sp_{wanted.slug}"):
            seen = Message.objects.filter(Q(message_id__in=ids) | Q(sender__in=senders))
            for pair in seen.values_list("message_id", "sender"):
                found.update(pair)
    return [draft for draft in DRAFTS if (draft.message_id if draft.reply == 250 else draft.sender) not in found]


def tell_results(tell: Tell) -> None:
    """How many messages of which category are where."""
    for wanted in PROVIDERS:
        with schema_context(f"sp_{wanted.slug}"):
            pairs = Recipient.objects.values_list("category", "state")
            held = Counter(category for category, state in pairs if state == State.QUARANTINED)
            states = Counter("held" if state == State.QUARANTINED else state for _, state in pairs)
        counts = ", ".join(f"{number} {category.replace('_', ' ')}" for category, number in sorted(held.items()))
        tell(f"{wanted.name}: {states['held']} held ({counts}), {states[State.REFUSED]} refused, the rest passed on")


def report(tell: Tell) -> None:
    """Have every mailbox's report made now, so that there is one to open."""
    for wanted in PROVIDERS:
        for domain in wanted.domains:
            for person in domain.people:
                call_command("send_digest", person.email, stdout=StringIO())
    tell("every mailbox gets a quarantine report")
