"""
Keeps one token from taking a whole process for itself.

Connections: once three quarters of those that the process can hold are taken, a token that holds more than half of
them gets no further call until it holds less. WebSockets, which may last for good: a token has so many at most.

A token is known by its claim, which counts the call. So that a refusal counts nothing, one that holds much is
remembered by its hash, and told before its next claim. While nobody holds much, all this is a look-up.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from llmproxy.errors import ConcurrencyLimited
from llmproxy.live_calls import LiveCalls

# A call has a connection on either side. The others are for files, the database, and what is being opened.
FILES_PER_CALL, OTHER_FILES = 2, 128
# Those who hold much and never come back are forgotten when there are so many.
_MAX_KNOWN = 10_000


def most_connections() -> int:
    """As many as can all have a call at the same time, by the files that this process may open; at least one."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (files - OTHER_FILES) // FILES_PER_CALL)


class Pool(Protocol):
    """The connections of one listening socket; `size` is how many it takes."""

    size: int

    def __len__(self) -> int: ...


class _Owner(NamedTuple):
    token_id: str
    project_id: str


class Fairness:
    """
    What tokens hold of one process.

    Args:
        max_sessions: WebSockets of one token.
    """

    def __init__(self, live: LiveCalls, *, max_sessions: int) -> None:
        self._live = live
        self._max_sessions = max_sessions
        self._large: dict[str, _Owner] = {}
        self._pools: Sequence[Pool] = ()
        self._capacity = 0

    def serves(self, pools: Sequence[Pool]) -> None:
        """From here on these connections are to be shared. Without any, only WebSockets are counted."""
        self._pools = pools
        self._capacity = min(sum(pool.size for pool in pools), most_connections())

    def check(self, token_hash: str, *, is_session: bool) -> None:
        """Before a claim: raise ConcurrencyLimited for a token that is known to hold too much."""
        if self._large and (owner := self._large.get(token_hash)):
            if self._holds_much(owner.token_id):
                self._require_less(owner, is_session=is_session)
            else:
                del self._large[token_hash]

    def check_claimed(self, token_hash: str, token_id: str, project_id: str, *, is_session: bool) -> None:
        """The same after the claim, of who has come to hold much: all of a burst is claimed before any is held."""
        if self._holds_much(token_id):
            if len(self._large) >= _MAX_KNOWN:
                self._large.clear()
            owner = self._large[token_hash] = _Owner(token_id, project_id)
            self._require_less(owner, is_session=is_session)

    def _holds_much(self, token_id: str) -> bool:
        """Whether it may be too much: half of three quarters, or the last WebSocket but one."""
        calls, sessions = self._live.held_by(token_id)
        return calls * 8 > self._capacity * 3 > 0 or sessions >= self._max_sessions - 1

    def _require_less(self, owner: _Owner, *, is_session: bool) -> None:
        calls, sessions = self._live.held_by(owner.token_id)
        if is_session and sessions >= self._max_sessions:
            raise ConcurrencyLimited(f"This token has {sessions} WebSockets open, and may have no more.", *owner)
        taken = sum(map(len, self._pools))
        if taken * 4 >= self._capacity * 3 > 0 and calls * 2 > taken:
            raise ConcurrencyLimited("This token has too many calls under way, and others need room.", *owner)
