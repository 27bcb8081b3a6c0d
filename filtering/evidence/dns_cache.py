"""Answers of DNS kept for as long as their TTL allows, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    until: float


class TtlCache(Generic[Value]):
    """A bounded table whose entries end; when it is full the one used longest ago goes. For one event loop."""

    def __init__(self, entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[str, _Entry[Value]] = OrderedDict()
        self._limit = entries
        self._clock = clock

    def find(self, key: str) -> Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry.value

    def keep(self, key: str, value: Value, *, seconds: float) -> None:
        if seconds <= 0:
            return
        self._entries[key] = _Entry(value, self._clock() + seconds)
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)
