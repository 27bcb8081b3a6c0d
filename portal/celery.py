"""The Celery app: worker and beat start from here."""

from __future__ import annotations

import logging.config
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings

from portal.settings import choose

choose()
app = Celery("lazaret")
app.conf.update(settings.CELERY, broker_url=settings.BROKER_URL)
app.autodiscover_tasks(["reports", "quarantine", "quarantine.platform"])
app.set_default()


@setup_logging.connect
def log_like_the_others(**_: Any) -> None:
    """Celery would set up logs of its own."""
    logging.config.dictConfig(settings.LOGGING)
