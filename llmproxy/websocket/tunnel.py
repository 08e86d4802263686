"""
Bytes both ways between a client and an upstream that agreed on a WebSocket, until either ends or the call is cut.

At most one read of each direction is in memory: who reads slowly slows the other side. Silence is no fault here, so
there is no idle time; but a side that takes nothing of what is sent to it for `stall_s` is given up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import gevent

from llmproxy.call import Call
from llmproxy.errors import BodyTooLarge, ClientGone, ProxyDraining, ProxyError, UpstreamTimeout, UpstreamUnreachable
from llmproxy.relay import Observer, StreamCut
from llmproxy.turns import give_way
from llmproxy.websocket.frames import FrameScanner, close_frame, text_frame
from llmproxy.websocket.side import Side

# When one side has ended, what is still under way gets this long.
LINGER_S = 0.5
# A cut waits so long for the rest of the frame that is under way.
CUT_GRACE_S = 1.0
# RFC 6455 section 7.4.1, and 1012 of IANA's registry: the client may come back at once.
POLICY_VIOLATION, TOO_BIG, SERVICE_RESTART = 1008, 1009, 1012
_CANCEL = text_frame(b'{"type":"response.cancel"}')


class Messages(Protocol):
    """Who holds a client's messages back."""

    def feed(self, data: bytes) -> Iterable[bytes]:
        """What of a client's bytes may go up now. Raises ProxyError."""

    def close(self) -> None:
        """No more will come."""


class Tunnel:
    """
    One WebSocket, as the body of a response that has none: running it is the tunnel.

    Args:
        call: Told of the first byte, and ended when this is closed.
        client, upstream: The ends; the upstream's is closed at the end, the client's belongs to the server.
        observer: Fed with the upstream's bytes after the client got them.
        messages: What of the client's bytes may go up; None lets all of them.
        stall_s: See this module.
    """

    def __init__(
        self,
        call: Call,
        client: Side,
        upstream: Side,
        *,
        observer: Observer,
        stall_s: float,
        messages: Messages | None = None,
    ) -> None:
        self._call = call
        self._client = client
        self._upstream = upstream
        self._observer = observer
        self._messages = messages
        self._stall_s = stall_s
        self._up, self._down = FrameScanner(), FrameScanner()
        self._ended_first: ProxyError | None = None
        self._cut_by: ProxyError | None = None
        self._deadline: gevent.Greenlet | None = None
        self._is_closed = False
        self._is_sending_up = False
        self._bytes_in = 0  # from the client
        self._bytes_out = 0  # to it

    def __iter__(self) -> Tunnel:
        return self

    def __next__(self) -> bytes:
        self._run()
        # So that the server does not look for a next request among what the client sent.
        raise StreamCut

    def _run(self) -> None:
        """Copy until it is over, and leave both sides shut."""
        self._client.begin()
        self._upstream.begin()
        uplink = gevent.spawn(self._copy_up)
        try:
            self._copy_down()
            # The client's last words belong to a clean end, and to one that it sees.
            self._client.finish()
            uplink.join(LINGER_S)
        finally:
            uplink.kill()
            self._end_both()

    def close(self) -> None:
        """End the call, whatever its state. Further calls do nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._end_both()
            self._call.end(self._outcome, bytes_in=self._bytes_in, bytes_out=self._bytes_out)

    def _end_both(self) -> None:
        self._note_end(ClientGone())  # of a tunnel that nobody ran the client did not wait for it
        if self._deadline is not None:
            self._deadline.kill(block=False)
        self._client.abort()
        self._upstream.close()
        self._observer.finish()
        if self._messages is not None:
            self._messages.close()

    def refuse_response(self, reason: ProxyError) -> None:
        """Cut it, and tell the upstream to cancel what it has begun, if that can be said now. Never waits."""
        if self._cut_by is None and self._up.is_between_frames and not self._is_sending_up:
            self._upstream.say(_CANCEL)
        self.cut(reason)

    def cut(self, reason: ProxyError) -> None:
        """End it by a close frame, as soon as there is room for one between the upstream's frames. Never waits."""
        if self._cut_by is not None:
            return
        self._cut_by = reason
        if self._down.is_between_frames:
            self._upstream.abort()
        self._abort_in(CUT_GRACE_S)

    @property
    def ended_by(self) -> ProxyError:
        """What ended it, or which side ended first."""
        return self._cut_by or self._ended_first or ClientGone()

    @property
    def _outcome(self) -> ProxyError | None:
        """What ended it early; None when one of the two sent a close frame first."""
        if self._cut_by is not None:
            return self._cut_by
        return None if self._up.saw_close or self._down.saw_close else self._ended_first

    def _copy_down(self) -> None:
        try:
            while not self._may_part() and (data := self._upstream.receive()):
                last_end = self._down.feed(data)
                if self._cut_by is not None and last_end:
                    self._send_down(data[:last_end] + _last_frame(self._cut_by))
                    return
                self._send_down(data)
                self._observer.feed(data)
                give_way()
            self._note_end(UpstreamUnreachable())
            if self._cut_by is not None and self._down.is_between_frames:
                self._send_down(_last_frame(self._cut_by))
        except OSError:
            self._note_end(ClientGone())

    def _may_part(self) -> bool:
        return self._cut_by is not None and self._down.is_between_frames

    def _send_down(self, data: bytes) -> None:
        if not self._bytes_out:
            self._call.first_byte_came()
        self._client.send(data, stall_s=self._stall_s)
        self._bytes_out += len(data)

    def _copy_up(self) -> None:
        is_taken = True
        while data := self._client.receive():
            self._bytes_in += len(data)
            # Read to its end even when nobody wants it: closing on unread bytes would reset the connection, and
            # take the last words to the client with it.
            is_taken = is_taken and self._pass_up(data)
            give_way()
        self._note_end(ClientGone())
        self._abort_in(LINGER_S)

    def _pass_up(self, data: bytes) -> bool:
        """True when the upstream took what of it may go up."""
        try:
            for piece in (data,) if self._messages is None else self._messages.feed(data):
                self._up.feed(piece)
                if self._cut_by is not None or not self._send_up(piece):
                    return False
        except ProxyError as exc:
            # A close frame has room for few words, and clients go by the code.
            exc.message = exc.code or exc.message
            self.cut(exc.with_traceback(None))
            return False
        return True

    def _send_up(self, data: bytes) -> bool:
        """True when the upstream took it."""
        self._is_sending_up = True
        try:
            self._upstream.send(data, stall_s=self._stall_s, gives_up=self._client.has_left)
        except TimeoutError:
            self._note_end(ClientGone() if self._client.has_left() else UpstreamTimeout())
            self._upstream.abort()
            return False
        except OSError:  # it has ended; whoever reads from it sees that too
            return False
        finally:
            self._is_sending_up = False
        return True

    def _note_end(self, end: ProxyError) -> None:
        self._ended_first = self._ended_first or end

    def _abort_in(self, seconds: float) -> None:
        """End both sides then, if that has not happened by itself."""
        if self._deadline is None:
            self._deadline = gevent.spawn_later(seconds, self._abort)

    def _abort(self) -> None:
        self._client.abort()
        self._upstream.abort()


def _last_frame(reason: ProxyError) -> bytes:
    codes = ((ProxyDraining, SERVICE_RESTART), (BodyTooLarge, TOO_BIG))
    code = next((code for kind, code in codes if isinstance(reason, kind)), POLICY_VIOLATION)
    return close_frame(code, reason.message)
