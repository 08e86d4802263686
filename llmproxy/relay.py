"""
The response body: each piece the upstream's reads bring leaves at once, and is observed afterwards.

An iterable with ``close()`` and no generator: a generator that was never started never runs its ``finally``,
and then a HEAD or a client that left early would leave no record.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from requests import Response
from requests.exceptions import RequestException

from llmproxy.client.guard import HangupWatch
from llmproxy.errors import ClientGone, ProxyError
from llmproxy.headers import Headers, bare_fields
from llmproxy.upstream import translate


class Observer(Protocol):
    """Sees the body's bytes after the client got them."""

    def feed(self, chunk: bytes, /) -> None:
        """One piece of the body."""

    def finish(self) -> None:
        """No more will come."""


class Filter(Protocol):
    """Changes the body's bytes on the way."""

    def feed(self, chunk: bytes, /) -> bytes:
        """What to send for one piece; may be empty."""

    def finish(self) -> bytes:
        """What was held back."""


class StreamCut(ConnectionResetError):
    """The upstream failed within its answer. Servers close the connection on it, without a clean end."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the upstream's answer broke off")


class Relay:
    """
    Iterates over a response's body.

    Args:
        response: With its body unread; closed at the end.
        observer: Fed with the upstream's bytes, each piece after it has been written to the client.
        watch: Of the client; stopped at the end.
        on_first_byte: Called when the first piece arrives.
        on_end: Called exactly once, after the last byte left or could not: with None when the answer is
            complete, else with what cut it.
        body_filter: Changes what the client gets.
        trailers: Filled at the body's end with the fields that followed it, as they come down.

    Attributes:
        bytes_out: What has been handed to the server for the client.
    """

    __slots__ = (
        "_cut",
        "_drained",
        "_ended",
        "_filter",
        "_observer",
        "_on_end",
        "_on_first_byte",
        "_raw",
        "_seen",
        "_trailers",
        "_watch",
        "bytes_out",
    )

    def __init__(
        self,
        response: Response,
        *,
        observer: Observer,
        watch: HangupWatch,
        on_first_byte: Callable[[], None],
        on_end: Callable[[ProxyError | None], None],
        body_filter: Filter | None = None,
        trailers: Headers | None = None,
    ) -> None:
        self._raw = response.raw
        self._observer = observer
        self._watch = watch
        self._on_first_byte: Callable[[], None] | None = on_first_byte
        self._on_end: Callable[[ProxyError | None], None] | None = on_end
        self._filter = body_filter
        self._trailers = trailers
        self._seen = b""
        self._drained = False  # the upstream has nothing more to say
        self._ended = False  # and the server has asked for more, so everything was written
        self._cut: ProxyError | None = None
        self.bytes_out = 0

    @property
    def is_waiting(self) -> bool:
        """True when the first piece is known to be still to come."""
        has_body_bytes: Callable[[], bool] = getattr(self._raw, "has_body_bytes", lambda: True)
        return not has_body_bytes()

    def __iter__(self) -> Relay:
        return self

    def __next__(self) -> bytes:
        while True:
            # The server asks for the next piece when it has written the last one: now looking costs no time.
            if self._seen:
                self._observer.feed(self._seen)
                self._seen = b""
            if self._drained:
                self._ended = True
                raise StopIteration
            piece = self._read()
            if piece:
                self.bytes_out += len(piece)
                return piece

    def _read(self) -> bytes:
        """What to send next; b"" when there is nothing yet, or nothing more and `_drained` says so."""
        try:
            data: bytes = self._raw.read1(decode_content=False)
        except RequestException as exc:
            self._cut = self._watch.ended_by or translate(exc)
            raise StreamCut from exc
        self._seen = data
        if data and self._on_first_byte is not None:
            self._on_first_byte()
            self._on_first_byte = None
        if not data:
            self._drained = True
            if self._trailers is not None and (followed := getattr(self._raw, "trailers", None)):
                self._trailers.extend(bare_fields(followed))
            return self._filter.finish() if self._filter else b""
        return self._filter.feed(data) if self._filter else data

    def close(self) -> None:
        """End the call, whatever its state, and say how it went. Further calls do nothing."""
        on_end, self._on_end = self._on_end, None
        if on_end is None:
            return
        self._watch.stop()
        # An answer without a body, such as one to HEAD, may not be iterated over at all.
        has_no_body = not self.bytes_out and not self._seen and getattr(self._raw, "is_drained", False)
        self._raw.close()
        if self._seen:  # written in vain, but the upstream told it
            self._observer.feed(self._seen)
        self._observer.finish()
        if self._cut is None and not self._ended and not has_no_body:
            self._cut = self._watch.ended_by or ClientGone()
        on_end(self._cut)
