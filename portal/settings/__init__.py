"""Which settings hold: `embedded`, unless DATABASE_URL in the environment says `production`."""

import os


def choose() -> None:
    """Name the settings module in the environment, unless someone did already."""
    kind = "production" if os.environ.get("DATABASE_URL") and not os.environ.get("LAZARET_EMBEDDED") else "embedded"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"portal.settings.{kind}")
