"""What people do with messages: each does it and says in one sentence what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize

from portal.tenants.people.models import Mailbox, SenderRule, User
from portal.web.permissions import get_user, list_domains, looks_after
from quarantine.models import Category, Recipient
from quarantine.outcomes import was_read
from quarantine.queries import NEWEST_FIRST, start_after
from quarantine.release import DELETABLE, RELEASABLE, delete, release

MAX_MESSAGES = 1000  # whose senders get rules in one action
BATCH = 5000  # rows a transaction: "all that match" may be a million, which must not be locked all at once


class Change(Protocol):
    def __call__(self, recipients: QuerySet[Recipient], *, by: str) -> int: ...


@dataclass(frozen=True)
class Outcome:
    """What was done, for the person who did it."""

    level: str
    text: str


def may_act(state: str) -> bool:
    """Whether a row in that state can be released or deleted."""
    return state in RELEASABLE or state in DELETABLE


def may_release(user: User, recipient: Recipient) -> bool:
    """A virus is released only by admins of the domain that it came to."""
    if recipient.category == Category.VIRUS and not looks_after(user, recipient.domain_id):
        return False
    return recipient.state in RELEASABLE


def release_rows(request: HttpRequest, rows: QuerySet[Recipient]) -> Outcome:
    user, viruses = get_user(request), 0
    if not user.is_provider_admin:
        barred = Q(category=Category.VIRUS) & ~Q(domain_id__in=list(list_domains(user).values_list("pk", flat=True)))
        viruses = rows.filter(barred, listed__in=RELEASABLE).count()
        rows = rows.exclude(barred)
    done = _in_batches(release, rows, by=user.email)
    left = f" {viruses} with a virus stayed here: only an admin can release {_them(viruses)}." if viruses else ""
    if not done:
        return Outcome("warning", left.strip() or "Nothing was released: those messages are not held any more.")
    return Outcome("success", f"{_messages(done)} being released.{left}")


def delete_rows(request: HttpRequest, rows: QuerySet[Recipient]) -> Outcome:
    done = _in_batches(delete, rows, by=get_user(request).email)
    if not done:
        return Outcome("warning", "Nothing was deleted: those messages are not held any more.")
    return Outcome("success", f"{done:,} message{pluralize(done)} deleted.")


def _in_batches(change: Change, rows: QuerySet[Recipient], *, by: str) -> int:
    """Change the rows in the order of their list, by its index. Cut off halfway, what was done stays done; again does
    the rest.
    """
    done, place = 0, None
    while keys := list(start_after(rows, place).order_by(*NEWEST_FIRST).values_list("received_at", "pk")[:BATCH]):
        done += change(Recipient.objects.filter(pk__in=[pk for _, pk in keys]), by=by)
        place = keys[-1]
    return done


def count_deletable(rows: QuerySet[Recipient], limit: int = 1000) -> int:
    return rows.filter(listed__in=DELETABLE).order_by(*NEWEST_FIRST)[:limit].count()


def allow_senders(request: HttpRequest, rows: QuerySet[Recipient]) -> Outcome:
    return _rule_senders(request, rows, SenderRule.Action.ALLOW, "allowed")


def block_senders(request: HttpRequest, rows: QuerySet[Recipient]) -> Outcome:
    return _rule_senders(request, rows, SenderRule.Action.BLOCK, "blocked")


def _rule_senders(request: HttpRequest, rows: QuerySet[Recipient], action: SenderRule.Action, word: str) -> Outcome:
    """Rules for the mailboxes that got the messages, and for nobody else; the opposite ones give way."""
    user, found = get_user(request), rows.defer(None).filter(mailbox__isnull=False)
    newest = list(found.select_related("message").order_by(*NEWEST_FIRST)[: MAX_MESSAGES + 1])
    wanted = {(row.mailbox_id or 0, sender) for row in newest[:MAX_MESSAGES] if (sender := get_sender(row))}
    if not wanted:
        return Outcome("warning", f"Nobody was {word}: those messages have no sender address.")
    SenderRule.objects.bulk_create(
        [SenderRule(pattern=who, mailbox_id=pk, action=action, created_by=user) for pk, who in sorted(wanted)],
        update_conflicts=True,
        unique_fields=["pattern", "mailbox", "domain_id"],
        update_fields=["action", "created_by"],
    )
    senders = sorted({sender for _, sender in wanted})
    boxes = len({mailbox_id for mailbox_id, _ in wanted})
    who = senders[0] if len(senders) == 1 else f"{len(senders):,} senders"
    verb = "is" if len(senders) == 1 else "are"
    where = Mailbox.objects.get(pk=next(iter(wanted))[0]).address if boxes == 1 else f"{boxes} mailboxes"
    held = " What is held already stays until you release it." if action == SenderRule.Action.ALLOW else ""
    cut = f" Of the messages only the newest {MAX_MESSAGES:,} were looked at." if len(newest) > MAX_MESSAGES else ""
    return Outcome("success", f"{who} {verb} {word} from now on, for {where}.{held}{cut}")


def set_rule(
    user: User, pattern: str, action: str, *, mailbox_id: int | None = None, domain_id: int | None = None
) -> SenderRule:
    """Make the rule; the opposite one of the same scope gives way."""
    made = {"action": action, "created_by": user}
    mailbox = Mailbox.objects.get(pk=mailbox_id) if mailbox_id else None
    return SenderRule.objects.update_or_create(made, pattern=pattern, mailbox=mailbox, domain_id=domain_id)[0]


def get_sender(row: Recipient) -> str:
    """The address that people see as the sender: of the From header, else of the envelope; lower case."""
    content = (row.message.evidence.get("content") or {}) if was_read(row) else {}
    return str(content.get("from_address") or row.message.sender).lower()[:320]


def _messages(number: int) -> str:
    return f"{number:,} message{pluralize(number)} {'is' if number == 1 else 'are'}"


def _them(number: int) -> str:
    return "it" if number == 1 else "them"


ACTIONS = {"release": release_rows, "delete": delete_rows, "allow": allow_senders, "block": block_senders}
