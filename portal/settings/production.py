"""Servers of one's own: DATABASE_URL, BROKER_URL and LAZARET_SECRET_KEY must be set."""

from django.core.exceptions import ImproperlyConfigured

from portal.settings import base
from portal.settings import environment as read
from portal.settings.base import *  # noqa: F403

if not base.DATABASE_URL or not base.BROKER_URL:
    raise ImproperlyConfigured("DATABASE_URL and BROKER_URL must both be set (or neither, for the embedded servers).")
if not base.CACHE_URL:
    raise ImproperlyConfigured("CACHE_URL must name a Redis or Valkey where BROKER_URL is not one.")
SECRET_KEY = read.get_secret_key(base.HOME, generate=False)
DATABASES = base.make_databases(base.DATABASE_URL)
CACHES = base.make_caches(base.CACHE_URL)
DEMO = False  # whatever is left in the environment: its pages show arrived mail to anybody
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
