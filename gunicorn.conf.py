"""
The deployed server: gunicorn with gevent workers and its own Python parser, the strictest of those tried.

    gunicorn -c gunicorn.conf.py wsgi:app

The patch comes first: gunicorn imports `ssl` before it starts a worker.
"""

from gevent import monkey

monkey.patch_all()

import contextlib
import gc
import logging
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import weakref

import gevent
from gunicorn import util as gunicorn_util
from gunicorn.http import wsgi as gunicorn_wsgi

# gunicorn takes every name here for a setting that it knows; `config` is one of them.
import process_log
from config import MIN_SECRET_LENGTH, ConfigError, load

process_log.configure()

try:
    settings = load()
except ConfigError as exc:
    sys.exit(str(exc))

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "gevent"
worker_connections = 4096
http_parser = "python"
# Both the time an idle connection is kept and the deadline for a whole request head.
keepalive = 15
# Only the worker's heartbeat: streams may last as long as they like.
timeout = 60
# A stop lets running streams end. The master kills a worker that is late; in between lies the worker's own end,
# which cuts the streams that are left and records them.
graceful_timeout = int(settings.drain_timeout_s) + 5
control_socket_disable = True
# By default a client on this machine may say where the application is mounted, and so move its routes.
forwarder_headers = ""
# It would pass by the response class below, and gevent's is a loop of reads and writes anyway.
sendfile = False

# Counters are summed over workers through files, of which none may survive from an earlier start.
_metrics_dir = tempfile.mkdtemp(prefix="llm-proxy-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics_dir  # noqa: TID251  prometheus_client reads it there


def _without_quotes(record):
    """gunicorn quotes a malformed line of a request, and that may hold a token."""
    if isinstance(record.msg, str) and record.msg.startswith("Invalid request from"):
        record.msg = re.split("['\"]", record.msg)[0].rstrip(": ")
    return True


logging.getLogger("gunicorn.error").addFilter(_without_quotes)


def on_starting(server):
    """Say what an operator should know before the first request."""
    log = logging.getLogger("gunicorn.error")
    for name in settings.weak_secrets:
        log.warning("%s is easy to guess: use at least %d random characters", name, MIN_SECRET_LENGTH)
    if settings.upstream_is_unencrypted:
        log.warning("UPSTREAM_URL %s is not encrypted: keys and prompts travel in the clear", settings.upstream_url)


_between_requests = weakref.WeakSet()


def pre_request(worker, req):
    """A client that neither reads nor sends for the idle time is cut off."""
    sock = req.unreader.sock
    sock.settimeout(settings.idle_timeout_s)
    _between_requests.discard(sock)


def post_request(worker, req, environ, resp):
    """Know the connections that wait for a next request: a stop need not."""
    _between_requests.add(req.unreader.sock)
    if not worker.alive:
        _hang_up_on_the_idle()


def _hang_up_on_the_idle():
    for sock in list(_between_requests):
        # A request that has arrived meanwhile is still read, and answered.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)


def post_worker_init(worker):
    """Start this worker's background work, and let it know when it is about to stop."""
    import background
    from blueprints.services import services_of

    # What the start has built stays: the collector need not walk over it again and again.
    gc.collect()
    gc.freeze()
    # Nor look for cycles in every few calls: what a call allocates is freed without it.
    gc.set_threshold(10_000, 20, 20)
    background.start(worker.wsgi)
    draining = services_of(worker.wsgi).draining
    stop = signal.getsignal(signal.SIGTERM)
    worker.cfg.set("graceful_timeout", int(settings.drain_timeout_s))

    def drain(signum, frame):
        draining.set()
        gevent.spawn(_hang_up_on_the_idle)
        stop(signum, frame)

    signal.signal(signal.SIGTERM, drain)


def child_exit(server, worker):
    """Forget a dead worker's gauges; its counters stay counted."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(server):
    """Remove the metrics' files."""
    shutil.rmtree(_metrics_dir, ignore_errors=True)


# gunicorn takes these two for the connection's own and would drop the upstream's.
gunicorn_util.hop_headers -= {"server", "date"}
_PLAIN_HEADERS = re.compile(r"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]++: [ \t\x21-\x7e\x80-\xff]*+\r\n)*+")


class _Response(gunicorn_wsgi.Response):
    """
    gunicorn's response, which leaves `Server` and `Date` to the upstream where it sent them, and sends the head
    together with the first piece of the body: one packet and one system call less.
    """

    _head = b""

    def process_headers(self, headers):
        # One look at all instead of two at each. A doubtful one is left to gunicorn, which says what is wrong.
        text = "".join([f"{name}: {value}\r\n" for name, value in headers])
        self._names = {name.lower() for name, _ in headers}
        is_plain = _PLAIN_HEADERS.fullmatch(text) and text.count("\n") == len(headers)
        if not is_plain or not self._names.isdisjoint(gunicorn_util.hop_headers):
            super().process_headers(headers)
            return
        self.headers = list(headers)
        if "content-length" in self._names:
            self.response_length = next(int(value) for name, value in headers if name.lower() == "content-length")

    def default_headers(self):
        sent = self._names & {"server", "date"}
        if len(sent) < 2:
            return [line for line in super().default_headers() if line.partition(":")[0].lower() not in sent]
        lines = [
            f"HTTP/{self.req.version[0]}.{self.req.version[1]} {self.status}\r\n",
            f"Connection: {'close' if self.should_close() else 'keep-alive'}\r\n",
        ]
        return [*lines, "Transfer-Encoding: chunked\r\n"] if self.chunked else lines

    def send_headers(self):
        if not self.headers_sent:
            lines = self.default_headers()
            lines += [f"{name}: {value}\r\n" for name, value in self.headers]
            self._head = "".join([*lines, "\r\n"]).encode("latin-1")
            self.headers_sent = True

    def write(self, arg):
        super().write(arg)
        if not arg:
            self._send(b"")

    def _emit_body(self, data):
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def close(self):
        self.send_headers()
        self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _send(self, data):
        head, self._head = self._head, b""
        data = head + data if head else data
        if not data:
            return
        # gevent's sendall asks for the socket's buffer size first, every time.
        sent = self.sock.send(data)
        if sent < len(data):
            self.sock.sendall(memoryview(data)[sent:])


gunicorn_wsgi.Response = _Response
