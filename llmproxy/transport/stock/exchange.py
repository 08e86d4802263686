"""One try to send a request through urllib3: what its layers must know of it, and what they find out."""

from __future__ import annotations

import socket

from urllib3.util import SKIP_HEADER

from llmproxy.client.request_body import RequestBody
from llmproxy.headers import Headers
from llmproxy.sockets import shut_down
from llmproxy.transport.connection import Timeouts
from llmproxy.transport.repeating import may_send_again
from llmproxy.transport.request import UpstreamRequest, framing_of


class Exchange:
    """
    One request on one connection.

    Attributes:
        needs_fresh: No kept connection may be used.
        is_repeatable: It runs on a kept connection, and no byte of an answer has come.
        sent: Bytes of the request that were handed to the kernel.
        send_failed: Not all of it was.
        ended_cleanly: The upstream closed its side instead of answering.
        unacknowledged: What the other machine had not confirmed then, in bytes.
        trailers: What followed the body.
        sock: Of the connection it runs on, once it does.
        is_excess: More came than belongs to the answer.
    """

    sock: socket.socket

    def __init__(self, request: UpstreamRequest, timeouts: Timeouts, *, needs_fresh: bool = False) -> None:
        self.request = request
        self.timeouts = timeouts
        self.body: RequestBody = request.body  # type: ignore[assignment]
        self.needs_fresh = needs_fresh
        self.is_aborted = False
        self.is_repeatable = False
        self.sent = 0
        self.send_failed = False
        self.ended_cleanly = False
        self.unacknowledged = 0
        self.trailers: Headers = []
        self.is_excess = False

    def runs_on(self, sock: socket.socket, *, is_kept: bool) -> None:
        """Take a connection, and let the caller guard it."""
        self.sock = sock
        self.is_repeatable = is_kept
        self.request.on_connection(self)

    def abort(self) -> None:
        """End the exchange from outside. Never waits."""
        self.is_aborted = True
        shut_down(self.sock)

    def wait_at_most(self, idle_s: float) -> None:
        """Let each further read wait for so long."""
        self.sock.settimeout(idle_s)

    def may_repeat(self) -> bool:
        """Whether the request may be sent once more."""
        if not self.is_repeatable or self.is_aborted:
            return False
        if self.body.held is None:
            return not self.sent
        return may_send_again(
            self.request.method or "",
            ended_cleanly=self.ended_cleanly,
            sent=self.sent,
            unacknowledged=self.unacknowledged,
        )


class WireHeaders(dict[str, str]):
    """A request's headers as urllib3 is to send them; they carry the exchange to its lower layers."""

    def __init__(self, exchange: Exchange) -> None:
        request, held = exchange.request, exchange.body.held
        sent = {name.lower() for name, _ in request.pairs}
        unsent = [name for name in ("User-Agent", "Accept-Encoding") if name.lower() not in sent]
        framing = framing_of(request, exchange.body.length if held is None else len(held))
        self._pairs = [*request.pairs, *[(name, SKIP_HEADER) for name in unsent], *([framing] if framing else [])]
        super().__init__(self._pairs)
        self.exchange = exchange

    def items(self) -> Headers:  # type: ignore[override]
        """Each field, with repetitions; a mapping itself has but one of each name."""
        return self._pairs

    def copy(self) -> WireHeaders:
        """Itself: it serves one request only."""
        return self
