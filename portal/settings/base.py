"""Settings that hold everywhere. The environment is read here and nowhere else."""

from __future__ import annotations

import os
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from portal.settings import environment as read
from portal.settings.pages import *  # noqa: F403

PROJECT = read.PROJECT
HOME = read.get_home()
read.load_home_file(HOME)
get = os.environ.get

# What listens where.
SMTP_ADDRESS = read.parse_address("LAZARET_SMTP", get("LAZARET_SMTP", "127.0.0.1:2525"))
WEB_ADDRESS = read.parse_address("LAZARET_WEB", get("LAZARET_WEB", "127.0.0.1:8000"))
SMTP_HOSTNAME = read.parse_hostname("LAZARET_HOSTNAME", get("LAZARET_HOSTNAME", "") or "lazaret.localhost")
SMTP_TLS_CERTIFICATE = get("LAZARET_TLS_CERT", "")
SMTP_TLS_KEY = get("LAZARET_TLS_KEY", "")
if bool(SMTP_TLS_CERTIFICATE) != bool(SMTP_TLS_KEY):
    raise ImproperlyConfigured("LAZARET_TLS_CERT and LAZARET_TLS_KEY must be set together.")
for name, value in (("LAZARET_TLS_CERT", SMTP_TLS_CERTIFICATE), ("LAZARET_TLS_KEY", SMTP_TLS_KEY)):
    if value and not os.access(value, os.R_OK):
        raise ImproperlyConfigured(f"{name} names {value!r}, which cannot be read.")
XCLIENT_NETWORKS = read.parse_networks("LAZARET_XCLIENT", get("LAZARET_XCLIENT", ""))
PROXY_PROTOCOL_NETWORKS = read.parse_networks("LAZARET_PROXY_PROTOCOL", get("LAZARET_PROXY_PROTOCOL", ""))
RESOLVERS = read.parse_resolvers("LAZARET_DNS", get("LAZARET_DNS", ""))
GATEWAY_PROCESSES = read.parse_number(
    "LAZARET_GATEWAYS", get("LAZARET_GATEWAYS", str(min(os.cpu_count() or 1, 32))), low=1, high=256
)
MAX_MESSAGE_BYTES = read.parse_number(
    "LAZARET_MAX_MESSAGE_BYTES", get("LAZARET_MAX_MESSAGE_BYTES", "52428800"), low=65536, high=1073741824
)
MIN_FREE_BYTES = read.parse_number(
    "LAZARET_MIN_FREE_BYTES", get("LAZARET_MIN_FREE_BYTES", "0"), low=0, high=1125899906842624
)
MAX_RECIPIENTS = read.parse_number("LAZARET_MAX_RECIPIENTS", get("LAZARET_MAX_RECIPIENTS", "1000"), low=100, high=50000)
MAX_CONNECTIONS = read.parse_number(
    "LAZARET_MAX_CONNECTIONS", get("LAZARET_MAX_CONNECTIONS", "2000"), low=10, high=50000
)
MAX_CLIENT_CONNECTIONS = read.parse_number(
    "LAZARET_MAX_CLIENT_CONNECTIONS", get("LAZARET_MAX_CLIENT_CONNECTIONS", "50"), low=1, high=50000
)
# Pages and links. `{hostname}` stands for the provider's own.
PORTAL_URL = read.parse_portal_url(
    "LAZARET_PORTAL_URL", get("LAZARET_PORTAL_URL", "") or f"http://{{hostname}}:{WEB_ADDRESS.port}"
)
if PORTAL_URL.startswith("https://"):  # behind a proxy with TLS, whatever servers are ours
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_HSTS_SECONDS = 31536000
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-session", "__Host-csrf"
ALLAUTH_TRUSTED_PROXY_COUNT = read.parse_number(  # proxies of ours before the portal: whose X-Forwarded-For counts
    "LAZARET_PROXIES", get("LAZARET_PROXIES", "0"), low=0, high=8
)
METRICS_HOME = HOME / "metrics"  # where each process keeps its numbers
METRICS_NETWORKS = read.parse_networks("LAZARET_METRICS", get("LAZARET_METRICS", ""))  # who may read /metrics
DEMO = read.parse_flag("LAZARET_DEMO", get("LAZARET_DEMO", "0"))  # opens the demo's page of arrived mail
DEMO_SINK = read.parse_address(  # the demo's customers' mail server
    "LAZARET_DEMO_SINK", get("LAZARET_DEMO_SINK", f"127.0.0.1:{min(SMTP_ADDRESS.port + 1, 65535)}")
)
DEMO_UPSTREAM = read.parse_resolvers("LAZARET_DEMO_UPSTREAM", get("LAZARET_DEMO_UPSTREAM", ""))
SUPERVISED = read.parse_flag("LAZARET_SUPERVISED", get("LAZARET_SUPERVISED", "0"))  # `./run` tells its children

DATABASE_URL = read.parse_url("DATABASE_URL", get("DATABASE_URL", ""), ("postgres", "postgresql"))
BROKER_URL = read.parse_url("BROKER_URL", get("BROKER_URL", ""), ("redis", "rediss", "redis+socket", "amqp", "amqps"))
CACHE_URL = read.parse_url(
    "CACHE_URL",
    get("CACHE_URL", BROKER_URL if BROKER_URL.startswith(("redis://", "rediss://")) else ""),
    ("redis", "rediss"),
)
SECRET_KEY = ""  # embedded, production and test set it

DEBUG = False
ALLOWED_HOSTS = ["*"]  # the hostname table decides: an unknown host gets the public pages only

SHARED_APPS = [
    "django_tenants",
    "portal.tenants",
    "filtering.policy",
    "quarantine.platform",
    "portal.web",
    "filtering",
    "django.contrib.staticfiles",
    "django_htmx",
]
TENANT_APPS = [
    "portal.contrib.ContentTypesConfig",
    "portal.contrib.AuthConfig",
    "django.contrib.sessions",
    "django.contrib.messages",
    "portal.tenants.people",
    "portal.contrib.AccountConfig",
    "allauth",
    "quarantine",
    "reports",
]
INSTALLED_APPS = SHARED_APPS + [app for app in TENANT_APPS if app not in SHARED_APPS]
# Primary keys of 64 bits from the first migration on (schema-based sharding asks for it).
MIGRATION_MODULES = {
    "auth": "portal.contrib.migrations.auth",
    "contenttypes": "portal.contrib.migrations.contenttypes",
    "account": "portal.contrib.migrations.account",
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TENANT_MODEL = "tenants.ServiceProvider"
TENANT_DOMAIN_MODEL = "tenants.Hostname"
PUBLIC_SCHEMA_URLCONF = "portal.public_urls"
ROOT_URLCONF = "portal.urls"
SHOW_PUBLIC_IF_NO_TENANT_FOUND = True
TENANT_LIMIT_SET_CALLS = True
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]

MIDDLEWARE = [
    "portal.web.views.health.HealthMiddleware",
    "portal.web.views.metrics.MetricsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "portal.web.middleware.ProviderMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "portal.web.middleware.PatienceMiddleware",
]
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [PROJECT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.web.branding.brand",
                "portal.web.pages.viewer",
            ],
        },
    }
]
WSGI_APPLICATION = "portal.wsgi.application"

AUTH_USER_MODEL = "people.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = True
STATIC_URL = "/static/"
STATICFILES_DIRS = [PROJECT / "static"]


def make_databases(url: str) -> dict[str, Any]:
    """Django's database table: tenants' engine, psycopg's pool a process, connections given back after a request."""
    database = environ.Env.db_url_config(url, engine="django_tenants.postgresql_backend")
    database["CONN_MAX_AGE"] = 0
    database["CONN_HEALTH_CHECKS"] = True  # a restarted database must not cost a page
    database.setdefault("OPTIONS", {})["pool"] = {"min_size": 0, "max_size": 8, "timeout": 5}
    return {"default": database}


CACHE_SECONDS = 2.0  # to connect, and for an answer: a cache that hangs must not hang a page


def make_caches(url: str) -> dict[str, Any]:
    """The cache, with keys that carry the schema: an entry of one provider is nothing at another's."""
    return {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": url,
            "OPTIONS": {"socket_connect_timeout": CACHE_SECONDS, "socket_timeout": CACHE_SECONDS},
            "KEY_FUNCTION": "django_tenants.cache.make_key",
            "REVERSE_KEY_FUNCTION": "django_tenants.cache.reverse_key",
        }
    }


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "filters": {"tokens": {"()": "portal.settings.logs.HideTokens"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["tokens"]}},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "mail.log": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "celery.beat": {"level": "WARNING"},  # a line for each heartbeat says nothing; failures are errors
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
    },
}

CELERY: dict[str, Any] = {
    "broker_connection_retry_on_startup": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "task_ignore_result": True,
    "accept_content": ["json"],
    "task_serializer": "json",
    "task_default_queue": "default",
    "task_routes": {"reports.*": {"queue": "digest"}, "quarantine.*": {"queue": "release"}},
    "beat_schedule": {
        "heartbeat": {"task": "quarantine.platform.tasks.heartbeat", "schedule": 5.0, "options": {"expires": 15}},
        "due-digests": {"task": "reports.tasks.dispatch_due_digests", "schedule": 60.0, "options": {"expires": 55}},
        "expire-held": {"task": "quarantine.tasks.expire_held", "schedule": 3600.0},
        "forget-platforms": {
            "task": "quarantine.tasks.forget_platforms",
            "schedule": 3600.0,
            "options": {"expires": 3000},
        },
        "expire-links": {"task": "reports.tasks.expire_links", "schedule": 3600.0, "options": {"expires": 3000}},
    },
    "timezone": "UTC",
    "broker_transport_options": {
        "visibility_timeout": 600,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_keepalive": True,
        "health_check_interval": 15,
    },
}
