"""What is read of an answer through urllib3, with the face of an UpstreamAnswer."""

from __future__ import annotations

import socket
import time
from http import HTTPStatus
from typing import Any

from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import HTTPResponse

from llmproxy.headers import Headers
from llmproxy.transport.answer import Fields
from llmproxy.transport.connection import READ_BYTES
from llmproxy.transport.stock.exchange import Exchange
from llmproxy.transport.stock.parser import StockParser


class StockAnswer:
    """The raw side of a response; see UpstreamAnswer for what its attributes and methods promise."""

    def __init__(self, raw: HTTPResponse, exchange: Exchange) -> None:
        parser = raw._original_response
        assert isinstance(parser, StockParser)  # noqa: S101
        self._raw = raw
        self._parser = parser
        self._exchange = exchange
        self._is_broken = False
        self._pool: Any = raw._pool
        self._connection: Any = raw._connection
        # urllib3 would put it back with the last byte read, while the caller still guards it.
        raw._connection = None
        self.status = raw.status
        self.reason = parser.reason
        self.headers = parser.fields
        self.fields = Fields(parser.fields)
        exchange.wait_at_most(exchange.timeouts.idle_s)

    @property
    def trailers(self) -> Headers:
        """Fields that followed a chunked body."""
        return self._exchange.trailers

    @property
    def is_complete(self) -> bool:
        """The whole body has been read."""
        return not self._is_broken and (self._parser.isclosed() or self._parser.length == 0)

    @property
    def is_drained(self) -> bool:
        """True when nothing of the body is left to read."""
        return self.is_complete

    def has_body_bytes(self) -> bool:
        """True when `read1` is known not to wait."""
        return self.is_complete

    def read1(self, _amount: int = -1, *, decode_content: bool = False) -> bytes:
        """What one read of the upstream brought, or b"" at the end of the body. Raises as an UpstreamAnswer does."""
        if self._connection is None:
            raise RequestsConnectionError("the answer was closed")
        try:
            data = self._raw.read1(READ_BYTES, decode_content=False)
        except ReadTimeoutError as exc:
            self._is_broken = True
            raise ReadTimeout(f"nothing came from the upstream for {self._exchange.timeouts.idle_s} s") from exc
        except HTTPError as exc:
            self._is_broken = True
            raise RequestsConnectionError(f"the upstream's answer broke off ({exc})") from exc
        if not data and self._exchange.is_aborted and self._parser.will_close:  # which would look like a clean end
            raise RequestsConnectionError("the exchange was aborted")
        return data

    def take_over(self) -> tuple[socket.socket, bytes]:
        """The connection's socket after a 101, for the new protocol, and what has come of that already."""
        connection, self._connection = self._connection, None
        said = self._parser.take_over()
        self._exchange.wait_at_most(self._exchange.timeouts.idle_s)
        return connection.detach(), said

    def release(self) -> None:
        """Give the connection back to the pool when its exchange ended cleanly, else close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        is_complete = self.is_complete
        self._parser.close()
        if is_complete and not self._is_doubtful():
            connection.idle_since = time.monotonic()
            self._pool._put_conn(connection)
        else:
            connection.close()

    close = release

    def _is_doubtful(self) -> bool:
        """The connection may not be used again, though the answer was read to its end."""
        exchange = self._exchange
        if self.status < HTTPStatus.OK or self._parser.will_close:
            return True
        return exchange.is_excess or exchange.is_aborted or exchange.send_failed
