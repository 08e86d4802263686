"""
The response body: each piece the upstream's reads bring leaves at once, and is observed afterwards. Those that tell
the observer nothing leave from within the event loop, while the greenlet sleeps.

An iterable with ``close()`` and no generator: a generator that was never started never runs its ``finally``,
and then a HEAD or a client that left early would leave no record.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from requests.exceptions import RequestException

from llmproxy.call import Call
from llmproxy.errors import ClientGone, ProxyError
from llmproxy.headers import Headers, Origin, bare_fields
from llmproxy.upstream import translate

# Sends a piece of the body to the client without waiting. False when not all of it went: then the server has the
# rest, and sends it first with the next piece that it is given, or with an empty one.
SendNow = Callable[[bytes], bool]


class RawResponse(Protocol):
    """The raw side of an upstream's response, as far as passing it on needs it."""

    @property
    def origin(self) -> Origin:
        """Whose it is."""

    @property
    def headers(self) -> Headers:
        """As sent: in order, and with repetitions."""

    @property
    def trailers(self) -> Headers:
        """Fields that followed the body; complete once it is drained."""

    @property
    def is_drained(self) -> bool:
        """The body has arrived, and nothing of it is left to read."""

    def let_go_of_head(self) -> None:
        """Forget the headers: the body may go on for long."""

    def has_body_bytes(self) -> bool:
        """True when `read1` would not wait."""

    def read1(self) -> bytes:
        """What one read brings, as it was sent; b"" at the body's end. Raises requests' RequestException."""

    def pump(self, take: Callable[[bytes], bool], /) -> None:
        """
        Have the event loop give each piece that comes to `take`, until that returns False.

        May return before that, and does for the last piece: what comes is left to `read1` then. Raises as that does.
        """

    def close(self) -> None:
        """Let go of the connection, whatever the state. Further calls do nothing."""


class Observer(Protocol):
    """Sees the body's bytes after the client got them."""

    def feed(self, chunk: bytes, /) -> None:
        """One piece of the body."""

    def ignores(self, chunk: bytes, /) -> bool:
        """Whether the next piece tells it nothing, so that it need not be fed. Takes no longer than a look."""

    def finish(self) -> None:
        """No more will come."""


class Filter(Protocol):
    """Changes the body's bytes on the way."""

    def feed(self, chunk: bytes, /) -> bytes:
        """What to send for one piece; may be empty."""

    def finish(self) -> bytes:
        """What was held back."""


class StreamCut(ConnectionResetError):
    """The upstream failed within its response. Servers close the connection on it, without a clean end."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the upstream's response broke off")


class Relay:
    """
    Iterates over a response's body, and ends its call when it is closed.

    Args:
        call: Told of the first byte, and of the end.
        raw: With its body unread; closed at the end.
        observer: Fed with the upstream's bytes, each piece after it has been written to the client.
        on_cut: Called at an end that is not the body's.
        body_filter: Changes what the client gets.
        trailers: Filled at the body's end with the fields that followed it, as they come down.
        sender: Once the head is on its way, tells what the event loop may send pieces with; None where it may not.
    """

    __slots__ = (
        "_bytes_out", "_call", "_cut", "_drained", "_ended", "_filter", "_has_begun", "_is_closed", "_observer",
        "_on_cut", "_raw", "_seen", "_send_now", "_sender", "_trailers",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        raw: RawResponse,
        *,
        observer: Observer,
        on_cut: Callable[[], None] | None = None,
        body_filter: Filter | None = None,
        trailers: Headers | None = None,
        sender: Callable[[], SendNow | None] | None = None,
    ) -> None:
        self._call = call
        self._raw = raw
        self._observer = observer
        self._on_cut = on_cut
        self._filter = body_filter
        self._trailers = trailers
        self._sender = None if body_filter else sender
        self._send_now: SendNow | None = None
        self._seen = b""
        self._has_begun = False
        self._drained = False  # the upstream has nothing more to say
        self._ended = False  # and the server has asked for more, so everything was written
        self._is_closed = False
        self._cut: ProxyError | None = None
        self._bytes_out = 0  # what has been handed to the server for the client

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
            if self._send_now is not None and not self._raw.has_body_bytes():
                self._pump()
                if self._seen:
                    return b""  # the server sends what it has left of it
            piece = self._read()
            if piece:
                self._bytes_out += len(piece)
                return piece

    def _pump(self) -> None:
        """Let the event loop pass on what comes, for as long as nothing else is to be done with it."""
        try:
            self._raw.pump(self._pass_on)
        except RequestException as exc:
            raise self._broken(exc) from exc

    def _pass_on(self, piece: bytes) -> bool:
        # Runs in the event loop: nothing here may wait, nor take long.
        self._bytes_out += len(piece)
        if self._send_now(piece) and self._observer.ignores(piece):  # type: ignore[misc] # it is there by now
            return True
        self._seen = piece
        return False

    def _broken(self, error: RequestException) -> StreamCut:
        self._cut = self._call.guard.ended_by or translate(error, self._raw.origin)
        return StreamCut()

    def _read(self) -> bytes:
        """What to send next; b"" when there is nothing yet, or nothing more and `_drained` says so."""
        try:
            data = self._raw.read1()
        except RequestException as exc:
            raise self._broken(exc) from exc
        self._seen = data
        if not data:
            self._drained = True
            if self._trailers is not None and self._raw.trailers:
                self._trailers.extend(bare_fields(self._raw.trailers))
            return self._filter.finish() if self._filter else b""
        if not self._has_begun:
            self._has_begun = True
            self._call.first_byte_came()
            self._send_now = self._sender() if self._sender else None
        return self._filter.feed(data) if self._filter else data

    def close(self) -> None:
        """End the call, whatever its state, and say how it went. Further calls do nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        guard = self._call.guard
        guard.stop()
        # A response without a body, such as one to HEAD, may not be iterated over at all.
        has_no_body = not self._bytes_out and not self._seen and self._raw.is_drained
        self._raw.close()
        try:
            if self._seen:  # written in vain, but the upstream told it
                self._observer.feed(self._seen)
            self._observer.finish()
        finally:  # where the observer lets others run, a stop may end this greenlet, and its call has a record still
            self._end(has_no_body=has_no_body)

    def _end(self, *, has_no_body: bool) -> None:
        guard = self._call.guard
        if self._cut is None and not self._ended and not has_no_body:
            self._cut = guard.ended_by or ClientGone()
        if self._cut is not None and self._on_cut is not None:
            self._on_cut()
        self._call.end(self._cut, bytes_out=self._bytes_out)
