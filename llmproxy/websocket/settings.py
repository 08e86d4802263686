"""
The settings of a Realtime session: what its upstream has confirmed, and what it has been sent and not answered.

A setting counts when it is confirmed (`session.updated`); an update may be refused, and then leaves what was. Errors
name the message that they are about by an id that its client chose, or not at all, so no error is taken for certain:
what it may be about counts as taken and as refused, whichever allows more. Memory is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

from gevent.event import Event

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body.reading import FREE, WATCHED, Reading, listed
from llmproxy.limits.judge import NOTHING, OUTPUT_NAMES, hearing_places, unnamed_hearing

_OUTPUT = OUTPUT_NAMES["realtime"]
# What rules and bounds go by. What is said is none of it, and which conversation a response belongs to is kept no
# longer than the session.
_KEPT = WATCHED - FREE - {"conversation", "session", "response", "type"}
# What a message has besides; in `input` are the tools that an item brings.
_SAID = ("type", "event_id", "session", "response", "input")
_MOST_MODELS = 64
_MOST_OPEN = 32
# An upstream answers an update at once. An error that names nobody may be about a message before it.
ANSWERS_WITHIN_S = 5.0
_ANSWERS_AFTER_ERROR_S = 1.0


class _Update:
    """One that has been sent; `until` is when nobody waits for its answer any more."""

    __slots__ = ("event_id", "settings", "until")

    def __init__(self, settings: Reading, event_id: str | None) -> None:
        self.settings = settings
        self.event_id = event_id
        self.until = float("inf")


class Settings:
    """
    Attributes:
        held: As confirmed so far; what holds for responses that the upstream begins by itself.
        hears: The model that transcribes, as the upstream told with its last confirmation; None for none.
    """

    def __init__(self) -> None:
        self.held = NOTHING
        self.hears: str | None = None
        self._open: list[_Update] = []
        self._changed = Event()

    # What the client does.

    @property
    def latest(self) -> Reading:
        """As they are, if nothing of what was sent is refused."""
        return reduce(_with, (update.settings for update in self._open), self.held)

    def send(self, settings: Reading, event_id: str | None) -> None:
        """An update is about to be sent. Raises AmbiguousBody for one that names too many models."""
        if len(self.held.models | settings.models) > _MOST_MODELS:
            raise AmbiguousBody("A session may name so many models at most.", param="model")
        while len(self._open) >= _MOST_OPEN:
            self.held = _looser(self.held, self._open.pop(0).settings)
        self._open.append(_Update(settings, event_id))

    def known(self) -> Reading:
        """What a response is asked for under, as soon as that is known: of what is doubtful what allows more."""
        limit = time.monotonic() + ANSWERS_WITHIN_S
        while self._open:
            left = min(max(update.until for update in self._open), limit) - time.monotonic()
            if left <= 0:
                break
            self._changed.clear()
            self._changed.wait(left)
        for update in self._open:
            update.until = 0
        return reduce(_looser, (update.settings for update in self._open), self.held)

    def completed(self, said: Reading) -> Reading:
        """A message with the model that transcribes, where it changes something else of that alone: its language."""
        self.known()
        if self.hears is None:
            return said
        for place in unnamed_hearing(said):
            place["model"] = self.hears
        return said._replace(models=said.models | {self.hears})

    # What the upstream tells.

    def updated(self, session: Mapping[str, Any]) -> None:
        """
        An update has been taken.

        Args:
            session: As it stands now; empty where it is too long to be known.
        """
        unanswered = (at for at, update in enumerate(self._open) if update.until == float("inf"))
        at = next(unanswered, 0)
        if self._open:
            self.held = _with(self.held, self._open[at].settings)
            del self._open[: at + 1]
        self._take_output(session)
        self._take_hearing(session)
        self._changed.set()

    def failed(self, event_id: str | None) -> None:
        """A message of the client has failed, perhaps an update."""
        for update in self._open:
            if event_id is not None and update.event_id == event_id:
                update.until = 0
            elif event_id is None and update.until == float("inf"):
                update.until = time.monotonic() + _ANSWERS_AFTER_ERROR_S
            else:
                continue
            break
        self._changed.set()

    def _take_hearing(self, session: Mapping[str, Any]) -> None:
        """Whichever model hears must be allowed, also where the upstream has chosen it."""
        models = (place.get("model") for place in hearing_places(session))
        self.hears = next((model for model in models if isinstance(model, str)), None)
        if self.hears is not None and len(self.held.models) < _MOST_MODELS:
            self.held = self.held._replace(models=self.held.models | {self.hears})

    def _take_output(self, session: Mapping[str, Any]) -> None:
        """What the upstream goes by, where the client has said a limit: under another name it may have no effect."""
        told = [session[name] for name in _OUTPUT if name in session]
        if told and _OUTPUT[0] in self.held.members:
            self.held = self.held._replace(members=_limited(self.held.members, _loosest(told)))


def settings_of(said: Reading, place: Mapping[str, Any]) -> Reading:
    """
    Settings as they are kept.

    Args:
        said: The message.
        place: The object in it that has them.
    """
    members = {name: value for name, value in place.items() if name in _KEPT and name not in _OUTPUT}
    output = [place[name] for name in _OUTPUT if name in place]
    if output:
        members[_OUTPUT[0]] = _loosest(output)
    if not isinstance(members.get("model", ""), str):
        raise AmbiguousBody("`model` must be a text.", param="model")
    prompt = {"prompt": isinstance(place["prompt"], dict)} if "prompt" in place else {}
    return said._replace(members=members | prompt, has_stored_prompt=prompt.get("prompt", False))


def under(settings: Reading, said: Reading, own: Reading | None) -> Reading:
    """
    A message as it is to be judged.

    Args:
        settings: Of the session.
        own: Those that it has itself.
    """
    whole = settings if own is None else _with(settings, own)
    members = {name: value for name, value in whole.members.items() if name != "prompt"}
    named = {name: said.members[name] for name in _SAID if name in said.members}
    return said._replace(
        members=members | named,
        models=said.models | settings.models,
        has_stored_prompt=whole.has_stored_prompt or said.has_stored_prompt,
    )


def _with(settings: Reading, update: Reading) -> Reading:
    has_prompt = update.has_stored_prompt if "prompt" in update.members else settings.has_stored_prompt
    return settings._replace(
        members={**settings.members, **update.members},
        models=settings.models | update.models,
        has_stored_prompt=has_prompt,
    )


def _looser(settings: Reading, update: Reading) -> Reading:
    """The settings where nobody knows whether the update has been taken."""
    taken = _with(settings, update)
    members = {**taken.members, "tools": _tools(settings) + _tools(update)}
    if _OUTPUT[0] in update.members:
        members = _limited(members, _loosest([settings.members.get(_OUTPUT[0]), update.members[_OUTPUT[0]]]))
    return taken._replace(members=members, has_stored_prompt=settings.has_stored_prompt or update.has_stored_prompt)


def _tools(settings: Reading) -> list[Any]:
    tools = settings.members.get("tools")
    return [] if tools is None else listed(tools)


def _limited(members: Mapping[str, Any], output: object) -> dict[str, Any]:
    """Members with a limit of the output; without one where it is no number."""
    rest = {name: value for name, value in members.items() if name != _OUTPUT[0]}
    return rest | {_OUTPUT[0]: output} if _is_number(output) else rest


def _loosest(limits: Iterable[Any]) -> Any:
    """Of limits of the output the one that allows most: what is no number is no limit."""
    numbers = []
    for limit in limits:
        if not _is_number(limit):
            return limit
        numbers.append(limit)
    return max(numbers)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
