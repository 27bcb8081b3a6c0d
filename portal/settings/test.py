"""The test suite: the same, with servers that the suite starts and a fast password hash."""

from portal.settings import base
from portal.settings.base import *  # noqa: F403

SECRET_KEY = "only-for-tests-" + "x" * 40
DATABASES = base.make_databases(base.DATABASE_URL or "postgresql://127.0.0.1:1/lazaret")
CACHES = base.make_caches(base.CACHE_URL or "redis://127.0.0.1:1/0")
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
