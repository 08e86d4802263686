"""What a process does besides answering: keeps its end of the log in order."""

from __future__ import annotations

import gevent
from flask import Flask

from blueprints.services import services_of
from llmproxy import metrics

LOG_TICK_S = 1.0


def start(app: Flask) -> None:
    """Start the background work of this process. After the fork: greenlets do not survive one."""
    gevent.spawn(_keep_log, app)


def _keep_log(app: Flask) -> None:
    log = services_of(app).log
    while True:
        gevent.sleep(LOG_TICK_S)
        log.flush_pending()
        metrics.publish(log_pending=log.pending, log_lost=log.lost)
