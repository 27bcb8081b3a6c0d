"""`./run` with its own PostgreSQL and Valkey; their addresses come from LAZARET_HOME/lazaret.env."""

from portal.settings import base
from portal.settings import environment as read
from portal.settings.base import *  # noqa: F403

SECRET_KEY = read.get_secret_key(base.HOME, generate=True)
DATABASES = base.make_databases(base.DATABASE_URL or "postgresql://127.0.0.1:1/lazaret")
CACHES = base.make_caches(base.CACHE_URL or "redis://127.0.0.1:1/0")
