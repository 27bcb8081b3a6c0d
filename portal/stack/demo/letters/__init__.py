"""The demo's mail: about sixty messages of every kind, made when they are sent so that their dates are of today."""

from __future__ import annotations

from portal.stack.demo.letters.business import BUSINESS
from portal.stack.demo.letters.danger import DANGER
from portal.stack.demo.letters.lists import LISTS
from portal.stack.demo.letters.make import Draft, compose
from portal.stack.demo.letters.spam import SPAM
from portal.stack.demo.letters.world import WORLD

__all__ = ["DRAFTS", "Draft", "compose"]

DRAFTS: tuple[Draft, ...] = (*BUSINESS, *WORLD, *LISTS, *SPAM, *DANGER)
