"""The list of models, as the upstream tells it, with those left out that a token may not use."""

from __future__ import annotations

from collections.abc import Callable

import orjson

# OpenAI's has 20 KB, those of gateways to many upstreams half a MiB.
MOST_BYTES = 8 * 1024 * 1024
_NONE = b'{"object":"list","data":[]}'


class ModelListFilter:
    """
    Takes the bytes of a list, cut anywhere. Of what is no such list, compressed or too long, nobody can tell what it
    shows: in its place goes a list of none.

    Args:
        allow: Whether a model may be used.
    """

    def __init__(self, allow: Callable[[str], bool]) -> None:
        self._allow = allow
        self._held = bytearray()
        self._is_too_long = False

    def feed(self, chunk: bytes) -> bytes:
        """What may go down now: nothing before all of it has come."""
        self._is_too_long = self._is_too_long or len(self._held) + len(chunk) > MOST_BYTES
        if self._is_too_long:
            self._held.clear()
        else:
            self._held += chunk
        return b""

    def finish(self) -> bytes:
        """The list; nothing of an empty body."""
        if not self._held and not self._is_too_long:
            return b""
        try:
            document = orjson.loads(self._held)
        except orjson.JSONDecodeError:
            return _NONE
        models = document.get("data") if isinstance(document, dict) else None
        if not isinstance(models, list):
            return _NONE
        return orjson.dumps(document | {"data": [model for model in models if self._may_be_shown(model)]})

    def _may_be_shown(self, model: object) -> bool:
        name = model.get("id") if isinstance(model, dict) else None
        return isinstance(name, str) and self._allow(name)
