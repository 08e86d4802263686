"""
The sockets of the mock upstream: connections, the parser's events, who hung up, and the `/__mock__` endpoints.

One greenlet per connection reads a request, has it answered (`mock_exchange`), and reads the next. Written on bare
sockets and a parser in C so that the mock is never the bottleneck of a benchmark.
"""

import socket
from typing import Any
from urllib.parse import parse_qs, unquote

import gevent
import gevent.event
import gevent.ssl
import httptools
from gevent.server import StreamServer

from mock_openai.connection import Connection
from mock_openai.exchange import ClientGone, Exchange, plain_answer
from mock_openai.request import Request
from mock_openai.state import State

LONGEST_WAIT_S = 60.0


class MockServer:
    """The listening side: what is shared by all connections, and the control endpoints."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        api_key: str | None = None,
        ssl_context: gevent.ssl.SSLContext | None = None,
    ) -> None:
        self._state = State(api_key)
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
        connection = Connection(sock, self._numbers, self._state.ledger)
        self._connections.add(connection)
        try:
            while self._turn(connection):
                pass
        finally:
            connection.close()
            self._connections.discard(connection)
            self._state.ledger.changed()

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
        exchange = Exchange(self._state, connection, request)
        try:
            keep = exchange.run()
        except (ClientGone, OSError):
            self._state.ledger.set_outcome(request, "client_gone")
            return False
        finally:
            connection.unwatch()
            request.forget_large_body()
        self._state.ledger.set_outcome(request, "answered")
        return keep

    def _before_body(self, connection: Connection, request: Request) -> None:
        if name := request.controls.get("read-gate"):
            # Nothing is read here, so that the upload really stalls; nobody notices a client that leaves.
            self._state.gates[name].pass_one(gevent.event.Event())
        if request.expects_continue and "early" not in request.controls:
            connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    # --- /__mock__ ---

    def _leave_out(self, connection: Connection) -> None:
        """A connection that carries controls is none of the tested ones: it is not counted."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._accepted -= 1
            self._state.ledger.changed()

    def _control(self, request: Request) -> tuple[int, Any]:
        path, _, query = request.target.decode("latin-1").partition("?")
        asked = {name: values[-1] for name, values in parse_qs(query).items()}
        command, _, rest = path.removeprefix("/__mock__/").partition("/")
        match request.method, command:
            case "GET", "requests":
                return 200, [request.shown() for request in self._state.ledger.select()]
            case "GET", "connections":
                return 200, {"open": len(self._connections), "accepted": self._accepted}
            case "GET", "wait":
                return self._wait(asked)
            case "POST", "gate":
                self._state.gates[unquote(rest)].release(int(asked.get("count", "1")))
                return 200, {}
            case "POST", "reset":
                self._reset()
                return 200, {}
        return 404, {"error": {"message": f"no such control: {request.method} {path}"}}

    def _wait(self, asked: dict[str, str]) -> tuple[int, Any]:
        ledger = self._state.ledger
        """Until `count` requests match `outcome` and `path`, or until `open` connections are left."""
        outcome, path, count = asked.get("outcome"), asked.get("path"), int(asked.get("count", "1"))
        timeout_s = min(float(asked.get("timeout", "10")), LONGEST_WAIT_S)
        if "open" in asked:
            is_there = ledger.wait(lambda: len(self._connections) == int(asked["open"]), timeout_s)
        else:
            is_there = self._state.ledger.wait(
                lambda: len(self._state.ledger.select(outcome, path)) >= count, timeout_s
            )
        found = [request.shown() for request in self._state.ledger.select(outcome, path)]
        return (200 if is_there else 408), found

    def _reset(self) -> None:
        self._state.ledger.clear()
        self._state.gates.clear()
        self._state.used_once.clear()
        self._accepted = 0
