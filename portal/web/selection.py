"""What a list of mail shows, and which of its messages somebody chose: read from an address or a form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import QuerySet
from django.http import Http404, QueryDict
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from portal.tenants.models import MailDomain
from portal.tenants.people.models import Mailbox, User
from portal.web.permissions import list_domains, list_mailboxes, visible_to
from quarantine.models import Category, Recipient, State
from quarantine.outcomes import Outcome
from quarantine.queries import NEWEST_FIRST, search

MAX_IDS = 1000  # of one form; more is chosen by "all that match"
YEARS = range(1970, 3000)
SEARCHED = 20_000  # messages of a list that a search looks through
SEARCHED_FURTHER = 200_000  # by who asks for more
MAX_TRAIL = 20  # pages that "Newer" leads back through
SHOWN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "held": ("In quarantine", (State.QUARANTINED,)),
    "released": ("Released", (State.RELEASING, State.RELEASED, State.HELD)),
    "refused": (str(Outcome.SERVER_REFUSED.label), (State.HELD,)),  # a tab that is there when something is in it
    "all": ("All mail", ()),
}


@dataclass(frozen=True)
class ListFilter:
    """Which rows a list shows. Ids of others' domains and mailboxes are 404 before one exists.

    No index finds words or a category: a long list is searched piece by piece, each received in [since, until).
    """

    show: str = "held"
    text: str = ""
    category: str = ""
    domain: MailDomain | None = None
    mailbox: Mailbox | None = None
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def read(cls, data: QueryDict, user: User) -> ListFilter:
        text = data.get("q", "").replace("\0", " ").strip()[:200]
        category = category if (category := data.get("category", "")) in Category.values else ""
        return cls(
            show=show if (show := data.get("show", "")) in SHOWN else "held",
            text=text,
            category=category,
            domain=_find(list_domains(user), data.get("domain", "")),
            mailbox=_find(list_mailboxes(user), data.get("mailbox", "")),
            since=_read_moment(data.get("since", "")) if text or category else None,
            until=_read_moment(data.get("until", "")) if text or category else None,
        )

    @property
    def is_narrowed(self) -> bool:
        return bool(self.text or self.category or self.domain or self.mailbox)

    def bound(self, rows: QuerySet[Recipient]) -> ListFilter:
        """The same; a search with `since`, so that it looks through so many messages at most, if the list has more."""
        if not (self.text or self.category):
            return self
        listed = search(self._choose(rows), until=self.until).order_by(*NEWEST_FIRST)
        number = SEARCHED_FURTHER if self.until else SEARCHED
        edge = listed.values_list("received_at", flat=True)[number - 1 : number].first()
        return replace(self, since=max(filter(None, (self.since, edge)), default=None))

    def list_rows(self, user: User) -> QuerySet[Recipient]:
        return self.narrow(visible_to(user))

    def narrow(self, rows: QuerySet[Recipient]) -> QuerySet[Recipient]:
        rows = self._choose(rows).defer("findings", "message__evidence")
        return search(rows, text=self.text, category=self.category, since=self.since, until=self.until)

    def _choose(self, rows: QuerySet[Recipient]) -> QuerySet[Recipient]:
        """The whole list, in the order of an index."""
        if self.mailbox:
            rows = rows.filter(mailbox=self.mailbox)
        if self.domain:
            rows = rows.filter(domain_id=self.domain.pk)
        if states := SHOWN[self.show][1]:
            rows = rows.filter(listed__in=states)
        return rows

    def to_query(self, **more: str) -> str:
        """The address's query that shows this list again; `show` and places may be given over it."""
        values: dict[str, Any] = {
            "show": self.show if self.show != "held" else "",
            "q": self.text,
            "category": self.category,
            "domain": self.domain.pk if self.domain else "",
            "mailbox": self.mailbox.pk if self.mailbox else "",
            "since": self.since.isoformat() if self.since else "",
            "until": self.until.isoformat() if self.until else "",
        } | more
        return urlencode({name: value for name, value in values.items() if value})


def _find(rows: QuerySet[Any], value: str) -> Any:
    """None where nothing was given; 404 for what is not among the rows."""
    if not value:
        return None
    return get_object_or_404(rows, pk=read_id(value))


def read_id(value: str) -> int:
    """A row's id. Anything that is none is a 404."""
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise Http404
    return int(value)


@dataclass(frozen=True)
class Selection:
    """The messages that somebody chose in a list, and the list."""

    shown: ListFilter
    ids: tuple[int, ...] = ()
    is_matching: bool = False
    seen: datetime = field(default_factory=timezone.now)

    @classmethod
    def read(cls, data: QueryDict, user: User) -> Selection:
        seen = _read_moment(data.get("seen", "")) or timezone.now()
        values = data.getlist("id")
        values += data.get("page", "").split(",")  # "all on this page", where no script ticks the boxes
        ids = tuple(dict.fromkeys(read_id(value) for value in values if value))
        if len(ids) > MAX_IDS:
            raise Http404
        return cls(ListFilter.read(data, user), ids, data.get("matching") == "1", seen)

    def list_rows(self, user: User) -> QuerySet[Recipient]:
        """The chosen rows. One id that is not the user's to see is a 404, and nothing is done to any.

        "All that match" is what matched when the list was shown: mail that came since is not touched.
        """
        if self.is_matching:
            return self.shown.list_rows(user).filter(received_at__lte=self.seen)
        rows = visible_to(user).filter(pk__in=self.ids)
        if rows.count() != len(self.ids):
            raise Http404
        return rows


def _read_moment(text: str) -> datetime | None:
    """None for what is none, or so far off that PostgreSQL or a time zone could not tell it."""
    try:
        found = parse_datetime(text)
        moment = found.astimezone(UTC) if found and timezone.is_aware(found) else None
    except (ValueError, OverflowError):
        return None
    return moment if moment and moment.year in YEARS else None


def read_trail(data: QueryDict) -> list[str]:
    """The places of the pages before this one, the last one last; an empty one is the first page."""
    return data.get("trail", "").split(".")[-MAX_TRAIL:] if "trail" in data else []
