"""Faults, told without what they may quote."""

from __future__ import annotations

import traceback


def name_fault(error: BaseException) -> str:
    """What went wrong and where, without the error's own text: that may quote the mail."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} sqlstate={getattr(error, 'sqlstate', None) or '-'} at={where}"
