"""Which recipients are taken: what the directory knows, and beyond that what the domain's recipient policy says."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from portal.tenants.directory import Addressee, Directory, ServedDomain, UnknownMailbox
from portal.tenants.models import RecipientPolicy
from portal.tenants.provisioning import LOCAL_PART, MAX_LOCAL_OCTETS
from quarantine.delivery.callout import Answer, Callout, Word

YES_SECONDS = 3600.0  # that a mail server's yes is believed unasked
STALE_SECONDS = 86_400.0  # and that it is believed while the server cannot be asked
NO_SECONDS = 300.0
UNCLEAR_SECONDS = 5.0
MAX_GOOD = 50_000  # addresses
MAX_OTHERS = 10_000


@dataclass(frozen=True, slots=True)
class Undecided:
    """The domain is ours; whether it has such a mailbox cannot be said now."""

    address: str  # lower case
    domain: ServedDomain
    reason: str


T = TypeVar("T")
Found = Addressee | UnknownMailbox | Undecided | None
Key = tuple[str, int, str]  # host and port of the server, and an address of it; `@domain` stands for all of the domain


class AnswerCache:
    """What mail servers said, for as long as it holds. Guessing does not push out what is good."""

    def __init__(self) -> None:
        self._good: OrderedDict[Key, float] = OrderedDict()  # when the server last said yes
        self._others: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()

    def recall(self, key: Key) -> Answer | None:
        """What is known of the address and needs no asking."""
        now = time.monotonic()
        if key in self._others:
            at, answer = self._others[key]
            if now - at < (NO_SECONDS if answer.word is Word.NO else UNCLEAR_SECONDS):
                return answer
        elif key in self._good and now - self._good[key] < YES_SECONDS:
            return Answer(Word.YES, "")
        return None

    def was_good(self, key: Key) -> bool:
        """Whether the last clear answer of the past day was a yes."""
        return key in self._good and time.monotonic() - self._good[key] < STALE_SECONDS

    def keep(self, key: Key, answer: Answer) -> None:
        now = time.monotonic()
        self._others.pop(key, None)
        if answer.word is Word.YES:
            _put(self._good, key, now, MAX_GOOD)
            return
        if answer.word is Word.NO:
            self._good.pop(key, None)
        _put(self._others, key, (now, answer), MAX_OTHERS)


def _put(cache: OrderedDict[Key, T], key: Key, value: T, limit: int) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > limit:
        cache.popitem(last=False)


class RecipientFinder:
    """Finds recipients. One for a process. `counts` says how often which way an address without a mailbox went."""

    def __init__(self, directory: Directory, callout: Callout) -> None:
        self._directory = directory
        self._callout = callout
        self._memory = AnswerCache()
        self._asked: dict[Key, asyncio.Task[Answer]] = {}
        self.counts: Counter[str] = Counter()

    def recall_domain(self, address: str) -> ServedDomain | None:
        """The served domain of an address as it was last known, for the record; nothing is asked."""
        return self._directory.recall_domain(address)

    async def find(self, address: str, *, is_welcome: Callable[[Addressee], Awaitable[bool]]) -> Found:
        """Whom the address means; None where the domain is not ours. Raises DirectoryUnavailable.

        An addressee without a mailbox gets one when a message for it is taken, not before. Undecided is to be answered
        450, and is said after ten seconds at the latest. No server is asked for a client that is refused whoever the
        recipient may be: where it is not welcome, every sane address of such a domain is an addressee.
        """
        found = await self._directory.find(address)
        if not isinstance(found, UnknownMailbox) or not is_sane(found.address):
            return found
        match found.domain.recipient_policy:
            case RecipientPolicy.ANYONE:
                self.counts["anyone"] += 1
                return found.newcomer
            case RecipientPolicy.CALLOUT:
                return await self._verify(found) if await is_welcome(found.newcomer) else found.newcomer
            case _:
                return found

    async def _verify(self, unknown: UnknownMailbox) -> Found:
        server = unknown.domain.server_host, unknown.domain.server_port
        one, all_of_them = (*server, unknown.address), (*server, f"@{unknown.domain.name}")
        takes_all = self._memory.recall(all_of_them)
        if takes_all and takes_all.word is Word.YES:
            self.counts["takes_all"] += 1
            return unknown.newcomer
        answer = await self._get_answer(one, all_of_them, try_all=takes_all is None)
        if answer.word is Word.NO:
            return replace(unknown, reason=f"The mail server has no such mailbox: {answer.text}")
        if answer.word is Word.YES:
            return unknown.newcomer
        if self._memory.was_good(one) or self._memory.was_good(all_of_them):
            self.counts["stale"] += 1
            return unknown.newcomer
        return Undecided(unknown.address, unknown.domain, f"The mail server gave no clear answer: {answer.text}")

    async def _get_answer(self, one: Key, all_of_them: Key, *, try_all: bool) -> Answer:
        """What is remembered, or what the server says now: the same is asked once, however many want to know."""
        if answer := self._memory.recall(one):
            self.counts[f"remembered_{answer.word}"] += 1
            return answer
        if one not in self._asked:
            asked = self._asked[one] = asyncio.create_task(self._ask(one, all_of_them, try_all=try_all))
            asked.add_done_callback(lambda _: self._asked.pop(one))
        return await asyncio.shield(self._asked[one])  # it goes on when this session ends

    async def _ask(self, one: Key, all_of_them: Key, *, try_all: bool) -> Answer:
        answer = await self._callout.ask(*one, try_all=try_all)
        self.counts[f"asked_{answer.word}"] += 1
        self._memory.keep(one, answer)
        if answer.takes_all is not None:
            self._memory.keep(all_of_them, Answer(Word.YES if answer.takes_all else Word.NO, answer.text))
        return answer


def is_sane(address: str) -> bool:
    """Whether an address that nobody has set up may mean somebody: one that can be a mailbox here, and that no mail
    server takes for a route to somewhere else.
    """
    local = address.rpartition("@")[0]
    if "%" in local or "!" in local or len(local.encode()) > MAX_LOCAL_OCTETS:
        return False
    return LOCAL_PART.fullmatch(local) is not None
