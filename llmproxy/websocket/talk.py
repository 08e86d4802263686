"""
What a client says on a WebSocket, judged message by message before it goes up.

On Realtime a message may have a `session`, whose settings hold for all responses from there on, or ask for a
`response`, with settings for that one; on Responses each message that asks for a response has its own, as a request
would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from llmproxy.errors import AmbiguousBody, AuthUnavailable
from llmproxy.limits.body.reading import Reading
from llmproxy.limits.judge import SOUND, unnamed_hearing
from llmproxy.websocket.messages import Message
from llmproxy.websocket.settings import Settings, settings_of, under

ASKS = "response.create"
# The sound that comes many times a second. With nothing else in it, it asks for nothing that could be refused but to
# go on, which is looked at so often.
_SOUND_MEMBERS = frozenset({"type", "event_id", "audio"})
_SOUND_LOOKED_AT_S = 1.0


class AskForResponse(Protocol):
    """Who admits responses."""

    def asked(self, said: Reading, event_id: str | None) -> None:
        """A client asks for one. Raises ProxyError."""


class Check(Protocol):
    """Who judges what asks for no response."""

    def __call__(self, said: Reading | AmbiguousBody, size: int) -> None:
        """
        Args:
            said: What is said, or why it cannot be read.
            size: Bytes of the message.

        Raises ProxyError where it may not go up.
        """


class Unread:
    """
    Lets a client's bytes pass as they come, where nobody reads them and its responses, if any, are counted by nobody:
    its token may have got rules or a budget meanwhile.

    Args:
        check: Asked as often as sound is looked at. Raises ProxyError where they may pass no more.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._looked_at = time.monotonic()

    def feed(self, data: bytes) -> tuple[bytes]:
        """The bytes. Raises what `check` does."""
        if time.monotonic() - self._looked_at >= _SOUND_LOOKED_AT_S:
            self._check()
            self._looked_at = time.monotonic()
        return (data,)

    def close(self) -> None:
        """No more will come."""


class Talk:
    """
    Args:
        responses: Told of each that is asked for.
        check: Told of everything else.
        settings: The session's; None where responses have their own alone.
    """

    def __init__(self, responses: AskForResponse, check: Check, settings: Settings | None) -> None:
        self._responses = responses
        self._check = check
        self._settings = settings
        self._sound_looked_at = 0.0
        self._sound_size = 0

    def judge(self, message: Message) -> None:
        """Raises ProxyError for a message that may not go up."""
        try:
            said = message.read()
            if _is_sound(said):
                self._judge_sound(said)
                return
            settings, own = self._settings, None
            if settings is None:
                _require_plain(said)
            elif (place := _place_of(said)) is not None:
                said = settings.completed(said) if unnamed_hearing(said) else said
                own = settings_of(said, place)
        except AmbiguousBody as exc:
            self._check(exc.with_traceback(None), message.size)
            return
        event_id = _text(said.members.get("event_id"))
        if _asks(said, is_realtime=settings is not None):
            self._responses.asked(said if settings is None else under(settings.known(), said, own), event_id)
            return
        self._check(said if settings is None else under(settings.latest, said, own), message.size)
        if settings is not None and own is not None:
            settings.send(own, event_id)

    def _judge_sound(self, said: Reading) -> None:
        """What was looked at a moment ago, and was as long, is not again: that takes longer than to send it."""
        now = time.monotonic()
        if now - self._sound_looked_at < _SOUND_LOOKED_AT_S and said.size <= self._sound_size:
            return
        # An outage is no reason to end what was admitted; what is asked for meanwhile is refused.
        with suppress(AuthUnavailable):
            self._check(said if self._settings is None else under(self._settings.latest, said, None), said.size)
        self._sound_looked_at, self._sound_size = now, said.size


def _is_sound(said: Reading) -> bool:
    return said.members.get("type") in SOUND and said.members.keys() <= _SOUND_MEMBERS and not said.models


def _asks(said: Reading, *, is_realtime: bool) -> bool:
    """Whether a message asks for a response: on Responses also one without a type, which an upstream may take so."""
    kind = said.members.get("type")
    return kind == ASKS or (kind is None and not is_realtime)


def _place_of(said: Reading) -> dict[str, Any] | None:
    """The object of a message's settings. Raises AmbiguousBody where they stand where another kind has them."""
    own, other = ("response", "session") if said.members.get("type") == ASKS else ("session", "response")
    if isinstance(said.members.get(other), dict):
        raise AmbiguousBody(f"A message of this type has no `{other}`.", param=other)
    place = said.members.get(own)
    return place if isinstance(place, dict) else None


def _require_plain(said: Reading) -> None:
    if any(isinstance(said.members.get(name), dict) for name in ("session", "response")):
        raise AmbiguousBody("On this WebSocket parameters stand in the message itself.")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
