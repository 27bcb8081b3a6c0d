"""The Celery app: worker and beat start from here."""

from __future__ import annotations

import logging.config
import time
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_postrun, task_prerun, worker_process_init
from django.conf import settings

from portal.settings import choose
from quarantine import metrics

choose()
app = Celery("lazaret")
app.conf.update(settings.CELERY, broker_url=settings.BROKER_URL)
app.autodiscover_tasks(["reports", "quarantine", "quarantine.platform"])
app.set_default()


@setup_logging.connect
def log_like_the_others(**_: Any) -> None:
    """Celery would set up logs of its own."""
    logging.config.dictConfig(settings.LOGGING)


@worker_process_init.connect
def report_numbers(**_: Any) -> None:
    metrics.report("worker")


@task_prerun.connect
def note_begin(task: Any, **_: Any) -> None:
    task.request.begun = time.perf_counter()


@task_postrun.connect
def count_task(task: Any, state: str | None = None, **_: Any) -> None:
    metrics.TASKS.labels(task.name, (state or "unknown").lower()).inc()
    metrics.TASK_SECONDS.observe(time.perf_counter() - task.request.begun)
