"""
The deployed server: gunicorn with gevent workers and its own Python parser, the strictest of those tried.

    gunicorn -c gunicorn.conf.py wsgi:app

The patch comes first: gunicorn imports `ssl` before it starts a worker.
"""

import gc

# What is imported stays: the collector would walk over it again and again. `hooks.when_ready` lets it look once.
gc.disable()

import gevent
from gevent import monkey

monkey.patch_all()
# Nobody asks a greenlet who has started it: 0.6 KB of each connection.
gevent.config.track_greenlet_tree = False

from functools import partial

# gunicorn takes every name here for a setting that it knows; `config` is one of them. What is loaded here is loaded
# before the fork, and so once in memory for all workers.
from app import create_app
from server import boot, process_log
from server.gunicorn import hooks, master
from server.gunicorn.logger import Logger
from server.gunicorn.request import MAX_FIELDS, MAX_LINE_BYTES
from server.gunicorn.worker import Worker

gc.freeze()
gc.enable()

settings = boot.settings_or_exit(master.settings)
process_log.configure(settings.log_format)

if not settings.database_url.startswith("sqlite"):
    # What an application loads for PostgreSQL alone.
    import database.claims.postgres
    import database.postgres  # noqa: F401

bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in settings.listeners]
workers = settings.web_concurrency
# A client that neither reads nor sends for the idle time is cut off.
Worker.client_timeout_s = settings.idle_timeout_s
worker_class = Worker
# Idle ones cost some 20 KB each. A connection over this number waits until another ends, however short its request.
worker_connections = 16_384
http_parser = "python"
# Both the time an idle connection is kept and the deadline for a whole request head.
keepalive = 15
limit_request_line = limit_request_field_size = MAX_LINE_BYTES
limit_request_fields = MAX_FIELDS
# Only the worker's heartbeat: streams may last as long as they like.
timeout = 60
graceful_timeout = master.graceful_timeout_s(settings)
# The record of a call is the access log.
accesslog = None
logger_class = Logger
control_socket_disable = True
# By default a client on this machine may say where the application is mounted, and so move its routes.
forwarder_headers = ""
if settings.trusted_proxies:
    # Whose X-Forwarded-For counts, that one's X-Forwarded-Proto does too.
    forwarded_allow_ips = ",".join(map(str, settings.trusted_proxies))
# It would pass by the worker's response class, and gevent's is a loop of reads and writes anyway.
sendfile = False

on_starting = partial(hooks.on_starting, settings)
when_ready = partial(hooks.when_ready, create_app)
on_reload = partial(hooks.on_reload, create_app)
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
child_exit = hooks.child_exit
on_exit = hooks.on_exit
