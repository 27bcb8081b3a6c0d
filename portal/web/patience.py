"""How long a page waits for PostgreSQL; what is told then is in portal.web.middleware."""

from __future__ import annotations

from django.conf import settings

SECONDS = 5


def limit_statements() -> None:
    """Have PostgreSQL end whatever takes this process longer. For the web server, before it connects: commands,
    migrations and workers take their time.
    """
    options = settings.DATABASES["default"].setdefault("OPTIONS", {})
    options["options"] = f"{options.get('options', '')} -c statement_timeout={SECONDS}s".strip()
