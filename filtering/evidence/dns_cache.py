"""Answers of DNS kept for as long as their TTL allows, in bounded memory; and for a while longer, for bad times."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    octets: int
    until: float  # when it has to be asked for again
    dies: float  # when it is not even good for bad times


class TtlCache(Generic[Value]):
    """A table bounded in octets as its user reckons them; what was used longest ago goes first. For one event loop."""

    def __init__(self, octets: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[Hashable, _Entry[Value]] = OrderedDict()
        self._limit = octets
        self._clock = clock
        self.octets = 0

    def find(self, key: Hashable) -> Value | None:
        entry = self._entries.get(key)
        if entry is None or entry.until <= self._clock():
            return None
        self._entries.move_to_end(key)
        return entry.value

    def find_stale(self, key: Hashable) -> tuple[Value, float] | None:
        """What is still there of an entry that has ended, and for how many seconds."""
        entry = self._entries.get(key)
        left = entry.dies - self._clock() if entry else 0.0
        return (entry.value, left) if entry and left > 0 else None

    def keep(self, key: Hashable, value: Value, *, octets: int, seconds: float, stale_seconds: float = 0.0) -> None:
        self._remove(key)
        until = self._clock() + seconds
        self._entries[key] = _Entry(value, octets, until, until + stale_seconds)
        self.octets += octets
        while self.octets > self._limit:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: Hashable) -> None:
        if entry := self._entries.pop(key, None):
            self.octets -= entry.octets

    def __len__(self) -> int:
        return len(self._entries)
