"""gevent's handler of requests, with the checks that a front server would make. Made for loopback all the same."""

from __future__ import annotations

import email.errors
import socket
from http.client import HTTPException, HTTPMessage
from typing import ClassVar

import gevent
from gevent.pywsgi import WSGIHandler

from llmproxy.headers import Headers, field_lines
from llmproxy.sockets import shut_down

HEAD_DEADLINE_S = 15.0
# A form's headers have other defects in the eyes of a parser that expects the form with them.
MALFORMED_LINES = (
    email.errors.FirstHeaderLineIsContinuationDefect,
    email.errors.InvalidHeaderDefect,
    email.errors.MisplacedEnvelopeHeaderDefect,
    email.errors.MissingHeaderBodySeparatorDefect,
)


class Handler(WSGIHandler):  # type: ignore[misc]
    """gevent's handler with the checks that a front server would make."""

    client_timeout_s: ClassVar[float] = 300.0
    # A client that neither reads nor sends for so long is cut off as one that left.
    ignored_socket_errors = (*WSGIHandler.ignored_socket_errors, "timed out")
    path: str
    headers: HTTPMessage
    response_trailers: Headers
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
        environ["llmproxy.trailers"] = self.response_trailers = []
        return environ

    def process_result(self) -> None:
        """gevent's, which knows no trailers."""
        for piece in self.result:
            self.write(piece)
        if not self.headers_sent:
            self.write(b"")
        if self.response_use_chunked:
            self._sendall(b"0\r\n%b\r\n" % field_lines(self.response_trailers))

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


def _origin_form(target: str) -> str:
    """The path and query of a request target: routing goes by these. Whose host it names is checked later."""
    if target.startswith("/") or "://" not in target:
        return target
    return "/" + target.partition("://")[2].partition("/")[2]
