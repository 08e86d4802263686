"""
Two ways in: `app` for gunicorn, and `python wsgi.py`, gevent's own server for the first run on loopback.

The patch comes first: what imports `ssl` or `socket` before it keeps the blocking ones.
"""

from gevent import monkey

monkey.patch_all()

import email.errors
import logging
import signal
import socket
import sys
from http.client import HTTPException, HTTPMessage
from typing import ClassVar

import click
import gevent
from flask import Flask
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from sqlalchemy.exc import DBAPIError, OperationalError

import background
import config
import first_run
import gunicorn_master
import process_log
import storage
from app import create_app
from blueprints.services import services_of
from llmproxy import metrics
from llmproxy.headers import Headers, field_lines
from llmproxy.transport.connection import shut_down
from stopping import Stopping

HEAD_DEADLINE_S = 15.0
REQUEST_QUEUE = 1024
MAX_CONNECTIONS = 4096
# A form's headers have other defects in the eyes of a parser that expects the form with them.
MALFORMED_LINES = (
    email.errors.FirstHeaderLineIsContinuationDefect,
    email.errors.InvalidHeaderDefect,
    email.errors.MisplacedEnvelopeHeaderDefect,
    email.errors.MissingHeaderBodySeparatorDefect,
)
log = logging.getLogger(__name__)
# The exit code by which a worker tells gunicorn not to start it again and again.
CANNOT_BOOT = 3


class Handler(WSGIHandler):  # type: ignore[misc]
    """gevent's handler with the checks that a front server would make."""

    client_timeout_s: ClassVar[float] = 300.0
    # A client that neither reads nor sends for so long is cut off as one that left.
    ignored_socket_errors = (*WSGIHandler.ignored_socket_errors, "timed out")
    path: str
    headers: HTTPMessage
    answer_trailers: Headers
    response_use_chunked: bool
    between_requests: ClassVar[set[socket.socket]] = set()
    response_headers: list[tuple[bytes, bytes]]

    def handle_one_request(self) -> object:
        """One request. A connection whose head is not complete in time, or not there at the end, is closed."""
        self.head_deadline = gevent.Timeout.start_new(HEAD_DEADLINE_S)
        self.between_requests.add(self.socket)
        self.socket.settimeout(self.client_timeout_s)
        if self.server.closed:
            shut_down(self.socket, socket.SHUT_RD)
        try:
            return super().handle_one_request()
        except gevent.Timeout as timeout:
            if timeout is not self.head_deadline:
                raise
            return None
        finally:
            self._head_is_over()

    def _head_is_over(self) -> None:
        self.head_deadline.close()
        self.between_requests.discard(self.socket)

    def MessageClass(self, file: object, *args: object) -> object:
        """The parsed headers. A request with two framings could be read as two different ones: refused."""
        try:
            headers = super().MessageClass(file, *args)
        except HTTPException as exc:
            raise ValueError("too many headers") from exc
        # Python's parser takes everything after a malformed line for the body, the other headers with it.
        is_malformed = any(isinstance(defect, MALFORMED_LINES) for defect in headers.defects)
        if is_malformed or self.request_version == "HTTP/0.9":
            raise ValueError("a line that is no header, or no version")
        lengths = headers.get_all("content-length") or []
        codings = headers.get_all("transfer-encoding") or []
        if codings and (lengths or [coding.lower() for coding in codings] != ["chunked"]):
            raise ValueError("Content-Length together with Transfer-Encoding, or one that is not chunked")
        if len(set(lengths)) > 1 or any(not length.isdigit() for length in lengths):
            raise ValueError("more than one Content-Length, or one that is no number")
        if len(headers.get_all("host") or []) > 1:
            raise ValueError("more than one Host")
        return headers

    def get_environ(self) -> dict[str, object]:
        """The WSGI environ with what the proxy needs besides: target and headers as sent, the client's socket."""
        self._head_is_over()
        target, self.path = self.path, _origin_form(self.path)
        environ: dict[str, object] = super().get_environ()
        environ["RAW_URI"] = target
        environ["gunicorn.socket"] = self.socket
        environ["llmproxy.headers"] = [(name, value.strip(" \t")) for name, value in self.headers.items()]
        environ["llmproxy.trailers"] = self.answer_trailers = []
        return environ

    def process_result(self) -> None:
        """gevent's, which knows no trailers."""
        for piece in self.result:
            self.write(piece)
        if not self.headers_sent:
            self.write(b"")
        if self.response_use_chunked:
            self._sendall(b"0\r\n%b\r\n" % field_lines(self.answer_trailers))

    def log_error(self, msg: str, *args: object) -> None:
        """Nothing: gevent would quote a malformed line, and that may hold a token."""

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> object:
        """gevent's, which fails on the length that a 304 may tell of what it stands for."""
        if self.server.is_leaving and not status.startswith("101"):
            headers = [*headers, ("Connection", "close")]
        if status.startswith(("204", "304")):
            headers = [pair for pair in headers if pair[0].lower() != "content-length"]
        return super().start_response(status, headers, exc_info)

    def finalize_headers(self) -> None:
        """gevent's, which sends a last chunk after a HEAD, and keeps HTTP/1.0 waiting after a body of no length."""
        super().finalize_headers()
        if self.command == "HEAD":
            self.response_use_chunked = False
            self.response_headers = [pair for pair in self.response_headers if pair[0] != b"Transfer-Encoding"]
        elif self.request_version == "HTTP/1.0" and self.provided_content_length is None:
            self.close_connection = True
            self.response_headers = [pair for pair in self.response_headers if pair[0] != b"Connection"]


class Server(WSGIServer):  # type: ignore[misc]
    """gevent's server as `stopping.Front` wants it."""

    is_leaving = False

    @property
    def doors(self) -> tuple[WSGIServer]:
        """There is one."""
        return (self,)

    def say_goodbye(self) -> None:
        """Let every answer from now on be the last one on its connection."""
        self.is_leaving = True

    def hang_up_on_the_idle(self) -> None:
        """Close what waits for a request. One that has arrived meanwhile is still read, and answered."""
        for sock in Handler.between_requests:
            shut_down(sock, socket.SHUT_RD)


def _origin_form(target: str) -> str:
    """The path and query of a request target: routing goes by these. Whose host it names is checked later."""
    if target.startswith("/") or "://" not in target:
        return target
    return "/" + target.partition("://")[2].partition("/")[2]


def listener(host: str, port: int) -> socket.socket:
    """
    A listening socket whose connections send at once.

    Without TCP_NODELAY an answer's head and body, two sends, wait 40 ms for the client's delayed ACK.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=REQUEST_QUEUE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def main() -> None:
    """Serve on loopback until SIGTERM or SIGINT, making whatever is missing."""
    process_log.configure()
    try:
        settings = config.load(embedded=True)
    except config.ConfigError as exc:
        sys.exit(str(exc))
    if not config.is_loopback(settings.host):
        sys.exit(
            f"HOST={settings.host}: this server is for the first run on loopback. To listen elsewhere, run\n"
            f"  HOST={settings.host} .venv/bin/gunicorn -c gunicorn.conf.py wsgi:app"
        )
    app = _migrated(settings)
    try:
        sock = listener(settings.host, settings.port)
    except OSError as exc:
        sys.exit(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror}")
    metrics.WORKERS_WANTED.set(1)
    stopping = Stopping(services_of(app), background.start(app))
    _obey_signals(stopping)
    Handler.client_timeout_s = settings.idle_timeout_s
    server = Server(sock, app, handler_class=Handler, log=None, spawn=Pool(MAX_CONNECTIONS))
    server.start()
    print(first_run.greeting(settings, sock.getsockname()[1]), flush=True)
    stopping.wait(server)


def _obey_signals(stopping: Stopping) -> None:
    """SIGTERM and Ctrl-C leave gracefully, Ctrl-C without the overlap: nobody balances over a terminal."""
    numbers: list[int] = []

    def obey(number: int) -> None:
        numbers.append(number)
        if len(numbers) > 1:
            stopping.at_once()
        else:
            stopping.begin(overlap=number == signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, obey, number)


def _migrated(settings: config.Settings) -> Flask:
    app = create_app(settings)
    try:
        storage.migrate_to_head(app, settings.data_dir)
    except DBAPIError as exc:
        # Its predecessors found the schema at its newest. To end here would end the server, and all running calls.
        if isinstance(exc, OperationalError) and gunicorn_master.has_served():
            log.warning("starting without the database, which does not answer: %s", type(exc.orig).__name__)
            return app
        print(f"the database that DATABASE_URL names cannot be used: {exc.orig}", file=sys.stderr)
        sys.exit(CANNOT_BOOT)
    return app


if __name__ == "__main__":
    main()
else:
    # Also the way in of `flask` commands, which may use what an embedded start keeps.
    app = _migrated(config.load(command=click.get_current_context(silent=True) is not None))
