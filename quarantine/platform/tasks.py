"""The heartbeat of worker and beat: a task that went all the way shows that both, and the broker, are alive."""

from __future__ import annotations

import logging
import socket
from typing import Any

from celery import shared_task
from celery.signals import after_task_publish, beat_init, worker_ready
from kombu.exceptions import OperationalError

from quarantine.platform.heartbeat import beat, forget_silent

log = logging.getLogger(__name__)

HEARTBEAT = "quarantine.platform.tasks.heartbeat"
EXPIRES_SECONDS = 15


@shared_task(name=HEARTBEAT)
def heartbeat() -> None:
    if beat("worker", socket.gethostname()):
        forget_silent()


@after_task_publish.connect(sender=HEARTBEAT)
def beat_is_alive(**_: Any) -> None:
    """Only beat publishes the heartbeat: that the broker took it is beat's own sign of life."""
    beat("beat", socket.gethostname())


@worker_ready.connect
def worker_is_alive(**_: Any) -> None:
    beat("worker", socket.gethostname())


@beat_init.connect
def start_beating(**_: Any) -> None:
    """Do not wait for the first round of the schedule."""
    try:
        heartbeat.apply_async(expires=EXPIRES_SECONDS)
    except OperationalError as error:
        log.warning("heartbeat_failed part=beat error=%s", type(error).__name__)
