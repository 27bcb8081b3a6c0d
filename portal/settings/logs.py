"""What no log may hold: the tokens of links."""

from __future__ import annotations

import logging
import re

# After /d/ comes a digest's token; a long segment elsewhere (a password reset, say) is one too. Query strings go whole.
TOKENS = re.compile(r"(?<=/[dD]/)[^/\s?\"']+|(?<=/)[A-Za-z0-9_=-]{24,}(?=[/\s?\"']|$)")
QUERY = re.compile(r"(?<=[\w/])\?[^\s\"']*=[^\s\"']*")


def hide_tokens(text: str) -> str:
    """The text without tokens in paths and without query strings."""
    return QUERY.sub("", TOKENS.sub("-", text))


class HideTokens(logging.Filter):
    """Takes tokens out of every line that names a path; Django and gunicorn log paths when something goes wrong."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if "/" in message:
            record.msg, record.args = hide_tokens(message), None
        return True
