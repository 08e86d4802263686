"""
What this product changes in gunicorn's worker: it can tell idle connections from busy ones and leaves as `stopping`
says, requests keep their headers as sent, and a response leaves in one packet. To be imported after gevent's patch.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from functools import partial

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import http as gunicorn_http
from gunicorn import util as gunicorn_util
from gunicorn.http import wsgi as gunicorn_wsgi
from gunicorn.http.parser import RequestParser
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

# gunicorn takes these two for the connection's own and would drop the upstream's.
gunicorn_util.hop_headers -= {"server", "date"}
_PLAIN_HEADERS = re.compile(r"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]++: [ \t\x21-\x7e\x80-\xff]*+\r\n)*+")


class Worker(GeventWorker):
    """
    gunicorn's gevent worker, which leaves as `stopping` says.

    Attributes:
        client_timeout_s: A client that neither reads nor sends for so long is cut off.
        stopping: Set before `run`.
        doors: The servers of the listening sockets.
    """

    client_timeout_s = 300.0
    stopping = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._between_requests = set()
        self.doors = ()

    def run(self):
        """Serve until the end; the base class's own would look for a stop once a second, and then close the door."""
        # libev's own handlers: Python's would wait for the loop to wake up.
        gevent.signal_handler(signal.SIGTERM, self.stopping.begin)
        gevent.signal_handler(signal.SIGINT, self.stopping.at_once)
        gevent.signal_handler(signal.SIGQUIT, self.stopping.at_once)
        if not self.alive:  # told to stop while it was starting
            self.stopping.begin()
        self.doors = [self._open(sock) for sock in self.sockets]
        gevent.spawn(self._beat)
        self.stopping.wait(self)

    def _open(self, sock):
        sock.setblocking(1)
        handle = partial(self.handle, _Listener(sock.getsockname()))
        door = StreamServer(sock, handle=handle, spawn=Pool(self.worker_connections))
        if self.cfg.workers > 1:
            door.max_accept = 1
        door.start()
        return door

    def _beat(self):
        while True:
            self.notify()
            gevent.sleep(1.0)

    def notify(self):
        """Tell the master that this worker lives. Without a master, nobody would ever end it: it goes."""
        self.tmp.notify()
        if self.ppid != os.getppid():
            self.stopping.at_once()

    def handle(self, listener, client, addr):
        """Serve one connection; the base class's own would set the socket to wait for ever."""
        client.settimeout(self.client_timeout_s)
        gevent.getcurrent().client = client
        AsyncWorker.handle(self, listener, client, addr)

    def timeout_ctx(self):
        """The time that a connection may wait for a request, and that its head may take."""
        return _BetweenRequests(self)

    def say_goodbye(self):
        """Let every answer from now on be the last one on its connection."""
        _Response.is_last = True

    def hang_up_on_the_idle(self):
        """Close what waits for a request. One that has arrived meanwhile is still read, and answered."""
        self.alive = False
        for greenlet in list(self._between_requests):
            _stop_reading(greenlet.client)


class _Listener:
    """A listening socket's name. gunicorn asks for it late, when the socket may be closed: a call would be lost."""

    def __init__(self, name):
        self._name = name

    def getsockname(self):
        return self._name


class _BetweenRequests(gevent.Timeout):
    def __init__(self, worker):
        super().__init__(worker.cfg.keepalive, False)
        self._worker = worker

    def __enter__(self):
        greenlet = gevent.getcurrent()
        self._worker._between_requests.add(greenlet)
        if not self._worker.alive:
            _stop_reading(greenlet.client)
        return super().__enter__()

    def __exit__(self, *exc_info):
        self._worker._between_requests.discard(gevent.getcurrent())
        return super().__exit__(*exc_info)


def _stop_reading(client):
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RD)


class _Request(gunicorn_http.Request):
    """gunicorn's request, which keeps what a proxy passes on: names as sent, underscores, repetitions."""

    received = ()

    def parse_headers(self, data, from_trailer=False):
        # What is wrong with a line is found by gunicorn; no line is folded after that.
        headers = super().parse_headers(data, from_trailer)
        if not from_trailer:
            lines = [line.partition(":") for line in data.decode("latin-1").split("\r\n")]
            self.received = [(name, value.strip(" \t")) for name, _, value in lines]
        return headers


def _default_environ(req, sock, cfg):
    return _gunicorns_environ(req, sock, cfg) | {"llmproxy.headers": req.received}


_gunicorns_environ = gunicorn_wsgi.default_environ
gunicorn_wsgi.default_environ = _default_environ
RequestParser.mesg_class = _Request


class _Response(gunicorn_wsgi.Response):
    """
    gunicorn's response, which leaves `Server` and `Date` to the upstream where it sent them, and sends the head
    together with the first piece of the body: one packet and one system call less.
    """

    is_last = False
    _head = b""
    _plain = None

    def process_headers(self, headers):
        # One look at all instead of two at each. A doubtful one is left to gunicorn, which says what is wrong.
        text = "".join([f"{name}: {value}\r\n" for name, value in headers])
        self._names = {name.lower() for name, _ in headers}
        is_plain = _PLAIN_HEADERS.fullmatch(text) and text.count("\n") == len(headers)
        if not is_plain or not self._names.isdisjoint(gunicorn_util.hop_headers):
            super().process_headers(headers)
            return
        self.headers = self._plain = list(headers)
        self._plain_text = text
        if "content-length" in self._names:
            self.response_length = next(int(value) for name, value in headers if name.lower() == "content-length")

    def default_headers(self):
        if self.is_last:
            self.force_close()
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
            is_known = self.headers is self._plain
            text = self._plain_text if is_known else "".join([f"{name}: {value}\r\n" for name, value in self.headers])
            self._head = f"{''.join(self.default_headers())}{text}\r\n".encode("latin-1")
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
