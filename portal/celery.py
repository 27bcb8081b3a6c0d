"""The Celery app: worker and beat start from here."""

from __future__ import annotations

import logging.config
import time
from typing import Any

from celery import Celery, Task
from celery.signals import setup_logging, task_postrun, task_prerun, worker_process_init
from django.conf import settings
from django.db import Error

from portal.settings import choose
from portal.tenants.database import is_outage
from quarantine import metrics

log = logging.getLogger(__name__)


class DatabaseAwayError(Exception):
    """The task could not be done now; it is tried again at its next turn."""


class PatientTask(Task):
    """A task to which an outage of PostgreSQL is none of its faults: Celery tells those with a traceback."""

    throws = (DatabaseAwayError,)

    def __call__(self, *args: Any, **options: Any) -> Any:
        try:
            return super().__call__(*args, **options)
        except Error as error:
            cause = error.__cause__ or error
            if not is_outage(cause):
                raise
            log.warning("task_put_off task=%s error=%s", self.name, type(cause).__name__)
            raise DatabaseAwayError from error


choose()
app = Celery("lazaret", task_cls=PatientTask)
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
