"""
The calls under way in this process, so that they can be ended from outside: when a token is revoked, or at a stop.

Joining and leaving are on every call's path, so each is one operation on a set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from llmproxy.errors import ProxyError


class LiveCall(Protocol):
    """A call that has arrived and has not ended."""

    @property
    def token_id(self) -> str | None:
        """Whose it is, by the token's public id; None until it is admitted."""

    @property
    def project_id(self) -> str | None:
        """The token's project; None until it is admitted."""

    @property
    def is_stream(self) -> bool:
        """Its response is a stream of events."""

    @property
    def is_session(self) -> bool:
        """A WebSocket, which serves many requests and may stay open for good."""

    def end(self, cut: ProxyError | None, *, bytes_out: int) -> None:
        """Write its record."""

    def cut(self, reason: ProxyError) -> None:
        """End it so that its client sees it; `reason` goes to the record. Never waits, and may be called again."""


class LiveCalls:
    """
    A set of calls.

    Attributes:
        join, leave: To be called with a call when it arrives, and when it ends. Leaving twice does nothing.
    """

    def __init__(self) -> None:
        self._calls: set[LiveCall] = set()
        self._held: dict[str, list[int]] = {}
        self.join = self._calls.add
        self.leave = self._calls.discard

    def hold(self, token_id: str, *, is_session: bool) -> None:
        """A call of this token is admitted, which is, or may become, a WebSocket."""
        held = self._held.get(token_id)
        if held is None:
            held = self._held[token_id] = [0, 0]
        held[0] += 1
        held[1] += is_session

    def let_go(self, token_id: str, *, is_session: bool) -> None:
        """It has ended."""
        held = self._held[token_id]
        held[0] -= 1
        held[1] -= is_session
        if not held[0]:
            del self._held[token_id]

    def held_by(self, token_id: str) -> tuple[int, int]:
        """How many admitted calls of this token are under way, and how many of them are WebSockets."""
        calls, sessions = self._held.get(token_id, (0, 0))
        return calls, sessions

    def __iter__(self) -> Iterator[LiveCall]:
        """The calls as they are now; they may join and leave meanwhile."""
        return iter(list(self._calls))

    def cut_all(self, reason: ProxyError) -> None:
        """End every call."""
        for call in self:
            call.cut(reason)

    def cut_sessions(self, reason: ProxyError) -> None:
        """End those that would never end by themselves."""
        for call in self:
            if call.is_session:
                call.cut(reason)

    def abandon(self, reason: ProxyError) -> None:
        """Record every call as ended, for a process that ends on the spot. What each had sent stays untold."""
        for call in self:
            with suppress(Exception):  # one that is just being recorded, say: the others shall be, too
                call.end(reason, bytes_out=0)
