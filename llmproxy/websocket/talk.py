"""
What a client says on a WebSocket, judged message by message before it goes up.

On Realtime a message may have a `session`, whose settings hold for all responses from there on, or a `response`, with
settings for one; on Responses each message that asks for a response has its own, as a request would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body.reading import FREE, Reading
from llmproxy.limits.judge import NOTHING
from llmproxy.websocket.messages import Message

ASKS = "response.create"
# The sound that comes many times a second. With nothing else in it, there is nothing to judge.
_SOUND = "input_audio_buffer.append"
_SOUND_MEMBERS = frozenset({"type", "event_id", "audio"})
_SETTINGS = ("session", "response")
# What is said in them; and which conversation a response belongs to, which is kept no longer than the session.
_NO_SETTINGS = FREE | {"conversation"}


class AskForResponse(Protocol):
    """Who admits responses."""

    def asked(self, said: Reading, event_id: str | None) -> None:
        """A client asks for one. Raises ProxyError."""


class Talk:
    """
    Args:
        responses: Told of each that is asked for.
        check: Raises ProxyError where what is said may not go up; of what cannot be read it gets the reason.
        is_realtime: Whether settings are remembered.

    Attributes:
        remembered: What holds for responses that the upstream begins by itself.
    """

    def __init__(
        self, responses: AskForResponse, check: Callable[[Reading | AmbiguousBody], None], *, is_realtime: bool
    ) -> None:
        self.remembered = NOTHING
        self._responses = responses
        self._check = check
        self._is_realtime = is_realtime

    def judge(self, message: Message) -> None:
        """Raises ProxyError for a message that may not go up."""
        try:
            said = message.read()
            kind = said.members.get("type")
            if kind == _SOUND and said.members.keys() <= _SOUND_MEMBERS and not said.models:
                return
            said = self._with_settings(said) if self._is_realtime else _without_settings(said)
        except AmbiguousBody as exc:
            self._check(exc.with_traceback(None))
            return
        if kind == ASKS:
            self._responses.asked(said, _text(said.members.get("event_id")))
            return
        self._check(said)
        if self._is_realtime and isinstance(said.members.get("session"), dict):
            members = {name: value for name, value in said.members.items() if name not in ("type", "event_id")}
            self.remembered = said._replace(members=members)

    def _with_settings(self, said: Reading) -> Reading:
        settings = [said.members[name] for name in _SETTINGS if isinstance(said.members.get(name), dict)]
        members: dict[str, Any] = {**self.remembered.members}
        for each in settings:
            members |= {name: value for name, value in each.items() if name not in _NO_SETTINGS}
        if not isinstance(members.get("model", ""), str):
            raise AmbiguousBody("`model` must be a text.", param="model")
        members |= {name: value for name, value in said.members.items() if name in ("type", "event_id", "session")}
        return said._replace(
            members=members,
            models=said.models | self.remembered.models,
            has_stored_prompt=self.remembered.has_stored_prompt
            or any(isinstance(each.get("prompt"), dict) for each in settings),
        )


def _without_settings(said: Reading) -> Reading:
    if any(isinstance(said.members.get(name), dict) for name in _SETTINGS):
        raise AmbiguousBody("On this WebSocket parameters stand in the message itself.")
    return said


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
