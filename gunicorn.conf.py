"""
The deployed server: gunicorn with gevent workers and its own Python parser, the strictest of those tried.

    gunicorn -c gunicorn.conf.py wsgi:app

The patch comes first: gunicorn imports `ssl` before it starts a worker.
"""

from gevent import monkey

monkey.patch_all()

import gc
import logging
import re
import resource
import shutil
import sys

# gunicorn takes every name here for a setting that it knows; `config` is one of them.
import app  # noqa: F401  what it loads is loaded before the fork, and so once in memory for all workers
from server.background import Background
from server.gunicorn import master as gunicorn_master
from server import boot, process_log
from services import Services
from config import ConfigError, load
from server.gunicorn.worker import Worker
from llmproxy.telemetry import metrics, shared_values
from server.drain import Stopping

process_log.configure()

# A call holds two descriptors, and many systems start with a thousand.
_, _most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_most_files, _most_files))

try:
    settings = load()
except ConfigError as exc:
    sys.exit(str(exc))

if not settings.database_url.startswith("sqlite"):
    import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401  what an application loads for PostgreSQL alone
    import database.claims.postgres  # noqa: F401

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
# A client that neither reads nor sends for the idle time is cut off.
Worker.client_timeout_s = settings.idle_timeout_s
worker_class = Worker
# Idle ones cost some 20 KB each. A connection over this number waits until another ends, however short its request.
worker_connections = 16_384
http_parser = "python"
# Both the time an idle connection is kept and the deadline for a whole request head.
keepalive = 15
# A longer request line is answered with 414, more or longer headers with 431.
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
# Only the worker's heartbeat: streams may last as long as they like.
timeout = 60
graceful_timeout = gunicorn_master.graceful_timeout_s(settings)
# The record of a call is the access log.
accesslog = None
control_socket_disable = True
# By default a client on this machine may say where the application is mounted, and so move its routes.
forwarder_headers = ""
# It would pass by the response class below, and gevent's is a loop of reads and writes anyway.
sendfile = False


# Made before the fork, and the same one in every reload: what has been counted stays counted.
_metrics_dir = gunicorn_master.metrics_dir()


def _without_quotes(record):
    """gunicorn quotes a malformed line of a request, and that may hold a token."""
    if isinstance(record.msg, str) and record.msg.startswith("Invalid request from"):
        record.msg = re.split("['\"]", record.msg)[0].rstrip(": ")
    return True


logging.getLogger("gunicorn.error").addFilter(_without_quotes)


def on_starting(server):
    """Say what an operator should know before the first request."""
    log = logging.getLogger("gunicorn.error")
    boot.warn(settings, log)
    for path in settings.made_secrets:
        log.warning("made %s, which opens the upstream keys: keep a copy apart from the database", path)


def when_ready(server):
    """Change how the master takes signals, before it starts the first worker."""
    # A collector that walks over what the workers share would copy it for each of them.
    gc.collect()
    gc.freeze()
    gunicorn_master.end_at_once_on_a_second_sigterm(server)
    gunicorn_master.replace_workers_beside_leaving_ones(server)
    gunicorn_master.reload_without_standing_still(server)


on_reload = gunicorn_master.do_not_wait_for_old_workers


def post_worker_init(worker):
    """Start this worker's background work, and let it know how to end."""
    # What the start has built stays: the collector need not walk over it again and again.
    gc.collect()
    gc.freeze()
    # Nor look for cycles in every few calls: what a call allocates is freed without it.
    gc.set_threshold(10_000, 20, 20)
    parts = Services.of(worker.wsgi)
    worker.stopping = Stopping(parts, Background(parts))
    metrics.WORKERS_WANTED.set(worker.cfg.workers)
    gunicorn_master.note_that_a_worker_serves()


def post_fork(server, worker):
    """Let the workers count together."""
    shared_values.share_in(_metrics_dir)


def child_exit(server, worker):
    """Forget how a dead worker was; what it has counted stays counted."""
    shared_values.absorb(_metrics_dir, worker.pid)


def on_exit(server):
    """Remove the metrics' files."""
    shutil.rmtree(_metrics_dir, ignore_errors=True)
