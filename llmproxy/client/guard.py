"""Ends a call from outside, whoever asks: its client that has hung up, an operator, a stop."""

from __future__ import annotations

import math
import select
import socket
import struct
from contextlib import suppress
from typing import Any, Protocol

from gevent import get_hub, getcurrent

from llmproxy.errors import ClientGone, ProxyError
from llmproxy.sockets import READ, RealSocket, poll, real, shut_down, waiting_bytes

# Watching a socket costs the kernel's attention twice, a timer costs next to nothing, and most calls are over
# before anybody hangs up.
GRACE_S = 0.2
LOOK_EVERY_S = 0.5
# More than this behind a request, and the kernel soon takes no more: then the end of the connection does not arrive.
# Less than what it takes, however small the packets are (92 KiB and more of Linux' 128 KiB).
MOST_BYTES_BEHIND = 64 * 1024
# Linux tells of a peer that has shut its side down; elsewhere only a reset is seen.
_PEER_LEFT = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Abortable(Protocol):
    """What can be ended from outside, whoever waits for it."""

    def abort(self) -> None:
        """End it. Never waits."""


class CallGuard:
    """
    Ends what a call waits for: what `guard` was told last, or else whatever its greenlet waits for.

    To be made in that greenlet. A client's hang-up is seen from the event loop, at the price of one watcher and no
    greenlet, once the call has lasted GRACE_S.

    Args:
        client: The socket of the client's connection; None where the server does not show it, and then a hang-up is
            only noticed by writing.

    Attributes:
        ended_by: What ended the call from outside: that the client has hung up, or why it was cut.
        reads_client: The greenlet waits for the client, whatever it has of the upstream already; its reader says so.
    """

    __slots__ = ("_client", "_guarded", "_waiter", "_watcher", "ended_by", "reads_client")

    def __init__(self, client: socket.socket | None) -> None:
        # Peeking at the real one never switches greenlets.
        self._client = None if client is None else real(client)
        self._watcher: Any = None
        self._waiter: Any = getcurrent()
        self._guarded: Abortable | None = None
        self.ended_by: ProxyError | None = None
        self.reads_client = False

    def guard(self, upstream: Abortable | None) -> None:
        """
        Abort `upstream` when the call is ended; with None, throw what ended it into the greenlet again.

        Raises what ended it when that has happened already.
        """
        if self.ended_by is not None:
            raise self.ended_by
        self._guarded = upstream

    @property
    def has_upstream(self) -> bool:
        """There was a connection to the upstream, so that something may have been sent on it."""
        return self._guarded is not None

    def stop(self) -> None:
        """End nothing any more. Must come before the upstream connection goes back to the pool."""
        self._guarded = self._waiter = None
        self._stop_watching()

    def cut(self, reason: ProxyError) -> None:
        """
        End the call: whoever waits for the upstream stops waiting, and whoever waits for something before that raises
        `reason`. Never waits.

        Asked a second time, end the client's connection too: it neither sends its request nor reads its response.
        """
        if self.ended_by is None:
            self._end(reason)
        elif self._client is not None:
            shut_down(self._client)

    def _end(self, reason: ProxyError) -> None:
        self.ended_by = self.ended_by or reason
        if self._guarded is not None:
            self._guarded.abort()
        if self._waits_for_no_upstream():
            # Later, so that whoever cuts is not switched away from.
            get_hub().loop.run_callback(self._throw)

    def _throw(self) -> None:
        # Where the greenlet has gone on meanwhile, it has found `ended_by`, and has stopped this.
        if self._waiter is not None and self._waits_for_no_upstream():
            self._waiter.throw(self.ended_by)

    def _waits_for_no_upstream(self) -> bool:
        return self._guarded is None or self.reads_client

    def watch_client(self) -> None:
        """Begin to look for a hang-up; to be called when the client's whole request has been read."""
        if self._client is not None:
            self._stop_watching()
            self._watcher = get_hub().loop.timer(GRACE_S)
            self._watcher.start(self._watch, self._client)

    def _watch(self, client: RealSocket) -> None:
        self._watcher.close()
        self._watcher = get_hub().loop.io(client.fileno(), READ)
        self._watcher.start(self._look)

    def _look(self) -> None:
        # Runs in the event loop: nothing here may wait.
        is_gone = self.client_is_gone()
        self._stop_watching()
        if is_gone:
            self._end(ClientGone())
        else:
            # It has sent more, maybe its next request. The socket stays readable from here on, whatever happens.
            self._look_behind_bytes(MOST_BYTES_BEHIND)

    def watch_sending_client(self) -> None:
        """
        Look for a hang-up behind bytes that nobody has read yet: it cannot be peeked at, only asked for.

        To be called while the client's request is still being read; `watch_client` takes over when it has been.
        """
        self._look_behind_bytes(math.inf)

    def _look_behind_bytes(self, most: float) -> None:
        """Look now and then; a client with more than `most` bytes unread counts as gone, for it could not be seen."""
        if self._client is not None:
            self._watcher = get_hub().loop.timer(LOOK_EVERY_S, LOOK_EVERY_S)
            self._watcher.start(self._look_behind, self._client, most)

    def _look_behind(self, client: RealSocket, most: float) -> None:
        look = poll()
        look.register(client.fileno(), _PEER_LEFT)
        if look.poll(0) or waiting_bytes(client) > most:
            self._end(ClientGone())
            self._watcher.stop()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def client_is_gone(self) -> bool:
        """Whether the client has hung up, as far as can be seen now. Never waits."""
        if self._client is None:
            return False
        try:
            peeked = self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not peeked

    def reset_client(self) -> None:
        """Have the client's connection end by a reset, for a response whose clean end would be the connection's."""
        if self._client is not None:
            with suppress(OSError):
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
