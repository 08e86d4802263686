"""The list of models, as the upstream tells it, with those left out that a token may not use."""

from __future__ import annotations

from collections.abc import Callable

import orjson

# OpenAI's has 20 KB. What is longer is passed on as it comes.
MOST_BYTES = 1024 * 1024


class ModelListFilter:
    """
    Takes the bytes of a list, cut anywhere. What is no such list goes on as it came.

    Args:
        allow: Whether a model may be used.
    """

    def __init__(self, allow: Callable[[str], bool]) -> None:
        self._allow = allow
        self._held = b""
        self._is_too_long = False

    def feed(self, chunk: bytes) -> bytes:
        """What may go down now: nothing before all of it has come."""
        if self._is_too_long:
            return chunk
        self._held += chunk
        self._is_too_long = len(self._held) > MOST_BYTES
        return self._released() if self._is_too_long else b""

    def finish(self) -> bytes:
        """The list."""
        held = self._released()
        try:
            document = orjson.loads(held)
        except orjson.JSONDecodeError:
            return held
        models = document.get("data") if isinstance(document, dict) else None
        if not isinstance(models, list):
            return held
        return orjson.dumps(document | {"data": [model for model in models if self._may_be_shown(model)]})

    def _may_be_shown(self, model: object) -> bool:
        name = model.get("id") if isinstance(model, dict) else None
        return isinstance(name, str) and self._allow(name)

    def _released(self) -> bytes:
        held, self._held = self._held, b""
        return held
