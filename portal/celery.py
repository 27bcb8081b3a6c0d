"""The Celery app: worker and beat start from here."""

from __future__ import annotations

from celery import Celery
from django.conf import settings

from portal.settings import choose

choose()
app = Celery("lazaret")
app.conf.update(settings.CELERY, broker_url=settings.BROKER_URL)
app.autodiscover_tasks(["reports", "quarantine", "quarantine.platform"])
app.set_default()
