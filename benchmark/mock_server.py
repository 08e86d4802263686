"""
The sockets of the mock upstream: connections, the parser's events, who hung up, and the `/__mock__` endpoints.

One greenlet per connection reads a request, has it answered (`mock_exchange`), and reads the next. Written on bare
sockets and a parser in C so that the mock is never the bottleneck of a benchmark.
"""

import contextlib
import secrets
import socket
import struct
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

import gevent
import gevent.event
import gevent.ssl
import httptools
from gevent.server import StreamServer

from benchmark.mock_exchange import ClientGone, Exchange, plain_answer
from benchmark.mock_request import Ledger, Request

READ_BYTES = 64 * 1024
# A client may send its next request early; what it sends while an answer waits is kept up to here.
PENDING_BYTES = 1024 * 1024
LONGEST_WAIT_S = 60.0
DRAIN_S = 5.0


class Gate:
    """Lets one event of a stream pass for each release."""

    def __init__(self) -> None:
        self._permits = 0
        self._released = gevent.event.Event()

    def release(self, count: int) -> None:
        self._permits += count
        self._released.set()

    def pass_one(self, gone: gevent.event.Event) -> bool:
        """Waits for a permit and uses it up; False when the client hung up first."""
        while not self._permits:
            self._released.clear()
            gevent.wait([self._released, gone], count=1)
            if gone.is_set():
                return False
        self._permits -= 1
        return True


class Connection:
    """One accepted socket. Also the parser's protocol: its `on_…` methods build the requests."""

    def __init__(self, sock: Any, number: int, ledger: Ledger) -> None:
        self.sock = sock
        self.number = number
        self.is_control = False
        self.gone = gevent.event.Event()
        self._ledger = ledger
        self._parser = httptools.HttpRequestParser(self)
        self._ready: deque[Request] = deque()
        self._current: Request | None = None
        self._turns = 0
        self._pending = bytearray()
        self._watcher: gevent.Greenlet | None = None

    # --- the parser's events ---

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._current = None

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        pairs = self._headers if self._current is None else self._current.trailers
        pairs.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self._parser
        request = self._current = Request(
            method=parser.get_method().decode("latin-1"),
            target=self._target,
            version=parser.get_http_version(),
            headers=self._headers,
        )
        self._turns += 1
        request.keep_alive = parser.should_keep_alive()
        request.connection, request.turn = self.number, self._turns
        if request.target.startswith(b"/__mock__/"):
            self.is_control = True
        else:
            self._ledger.add(request)

    def on_body(self, data: bytes) -> None:
        assert self._current is not None
        self._current.take_body(data)

    def on_message_complete(self) -> None:
        request = self._current
        assert request is not None
        if request.form is not None:
            request.form.feed(None)
        request.complete = True
        self._ready.append(request)

    # --- reading ---

    def next_request(self, before_body: Callable[[Request], None]) -> Request | None:
        """
        The next request, its body read unless it wants to be answered early; None when the client closed.

        `before_body` is called once for a request whose head came before its whole body. Bytes that are no
        HTTP raise httptools.HttpParserError.
        """
        introduced: Request | None = None
        while not self._ready:
            current = self._current
            if current is not None and not current.complete and current is not introduced:
                introduced = current
                before_body(current)
                if "early" in current.controls:
                    return current
            if not self._feed():
                return None
        return self._ready.popleft()

    def _feed(self) -> bool:
        if self._pending:
            data = bytes(self._pending)
            self._pending.clear()
        else:
            data = self.sock.recv(READ_BYTES)
        if data:
            self._parser.feed_data(data)
        return bool(data)

    def abandon(self) -> None:
        """Marks a request that was still on its way in when the client left."""
        if self._current is not None:
            self._ledger.set_outcome(self._current, "client_gone")

    # --- noticing that the client left while nothing is sent ---

    def watch(self) -> gevent.event.Event:
        """An event that is set when the client hangs up. Reads ahead meanwhile, so end it with `unwatch`."""
        if self._watcher is None:
            self._watcher = gevent.spawn(self._read_ahead)
        return self.gone

    def _read_ahead(self) -> None:
        while len(self._pending) < PENDING_BYTES:
            try:
                data = self.sock.recv(READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self.gone.set()
                return
            self._pending += data

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher = None

    def close(self, *, reset: bool = False) -> None:
        """Ends the connection, at once and without a goodbye when `reset`."""
        self.unwatch()
        with contextlib.suppress(OSError):
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif self._current is not None and not self._current.complete:
                self._drain()
        self.sock.close()

    def _drain(self) -> None:
        # Closing with unread bytes resets the connection, and the client could lose an early answer to that.
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.settimeout(DRAIN_S)
        while self.sock.recv(READ_BYTES):
            pass


class MockServer:
    """The listening side: what is shared by all connections, and the control endpoints."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        api_key: str | None = None,
        ssl_context: gevent.ssl.SSLContext | None = None,
    ) -> None:
        self.api_key = api_key
        self.ledger = Ledger()
        self.gates: defaultdict[str, Gate] = defaultdict(Gate)
        self.used_once: set[str] = set()
        self.answers = 0
        self.run_id = secrets.token_hex(8)
        self._ssl_context = ssl_context
        self._connections: set[Connection] = set()
        self._numbers = 0
        self._accepted = 0
        self._server = StreamServer(listener, self._serve)

    def serve_forever(self) -> None:
        self._server.serve_forever(stop_timeout=0)

    def stop(self) -> None:
        self._server.close()
        self._server.stop(timeout=0)

    def _serve(self, sock: Any, _address: object) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._ssl_context is not None:
                sock = self._ssl_context.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            return
        self._numbers += 1
        self._accepted += 1
        connection = Connection(sock, self._numbers, self.ledger)
        self._connections.add(connection)
        try:
            while self._turn(connection):
                pass
        finally:
            connection.close()
            self._connections.discard(connection)
            self.ledger.changed()

    def _turn(self, connection: Connection) -> bool:
        """Answers one request; whether the connection may carry another."""
        try:
            request = connection.next_request(lambda current: self._before_body(connection, current))
            if request is None:
                connection.abandon()
                return False
            if connection.is_control:
                self._leave_out(connection)
                connection.sock.sendall(plain_answer(*self._control(request)))
                return request.keep_alive
        except OSError:
            connection.abandon()
            return False
        except httptools.HttpParserCallbackError:
            raise  # a fault of the mock itself
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            connection.abandon()
            connection.sock.sendall(plain_answer(400, {"error": {"message": f"bad HTTP: {error}"}}, close=True))
            return False
        return self._answer(connection, request)

    def _answer(self, connection: Connection, request: Request) -> bool:
        exchange = Exchange(self, connection, request)
        try:
            keep = exchange.run()
        except (ClientGone, OSError):
            self.ledger.set_outcome(request, "client_gone")
            return False
        finally:
            connection.unwatch()
            request.forget_large_body()
        self.ledger.set_outcome(request, "answered")
        return keep

    def _before_body(self, connection: Connection, request: Request) -> None:
        if name := request.controls.get("read-gate"):
            # Nothing is read here, so that the upload really stalls; nobody notices a client that leaves.
            self.gates[name].pass_one(gevent.event.Event())
        if request.expects_continue and "early" not in request.controls:
            connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    # --- /__mock__ ---

    def _leave_out(self, connection: Connection) -> None:
        """A connection that carries controls is none of the tested ones: it is not counted."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._accepted -= 1
            self.ledger.changed()

    def _control(self, request: Request) -> tuple[int, Any]:
        path, _, query = request.target.decode("latin-1").partition("?")
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        command, _, rest = path.removeprefix("/__mock__/").partition("/")
        match request.method, command:
            case "GET", "requests":
                return 200, [request.shown() for request in self.ledger.select()]
            case "GET", "connections":
                return 200, {"open": len(self._connections), "accepted": self._accepted}
            case "GET", "wait":
                return self._wait(asked)
            case "POST", "gate":
                self.gates[unquote(rest)].release(int(asked.get("count", "1")))
                return 200, {}
            case "POST", "reset":
                self._reset()
                return 200, {}
        return 404, {"error": {"message": f"no such control: {request.method} {path}"}}

    def _wait(self, asked: dict[str, str]) -> tuple[int, Any]:
        """Until `count` requests match `outcome` and `path`, or until `open` connections are left."""
        outcome, path, count = asked.get("outcome"), asked.get("path"), int(asked.get("count", "1"))
        timeout_s = min(float(asked.get("timeout", "10")), LONGEST_WAIT_S)
        if "open" in asked:
            is_there = self.ledger.wait(lambda: len(self._connections) == int(asked["open"]), timeout_s)
        else:
            is_there = self.ledger.wait(lambda: len(self.ledger.select(outcome, path)) >= count, timeout_s)
        found = [request.shown() for request in self.ledger.select(outcome, path)]
        return (200 if is_there else 408), found

    def _reset(self) -> None:
        self.ledger.clear()
        self.gates.clear()
        self.used_once.clear()
        self._accepted = 0
