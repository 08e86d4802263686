"""
Whose usage a document tells: that of this call, or that of an object which some other call made. Pure.

Whoever reads a stored object, or changes its metadata, gets the usage that it had when it was made. What runs on
after its call (batches, runs of assistants and of evals, responses in the background) tells its usage only when it is
read after it has ended:
that counts, under the object's id, and once.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from llmproxy.endpoints import plain_path

# Members of a document that this module reads.
NAMES = ("id", "object", "status", "background", "store")

_KINDS = _BATCH, _RUN, _STEP, _EVAL, _RESPONSE = "batch", "thread.run", "thread.run.step", "eval.run", "response"
# Where an object does not say what it is, its place does.
_PLACES = (
    (re.compile(r"/v1/batches(?:/(?P<id>[^/]+)|$)").match, _BATCH),
    (re.compile(r"/v1/threads/.*/steps(?:/(?P<id>[^/]+)|$)").match, _STEP),
    (re.compile(r"/v1/threads/(?:.*/)?runs(?:/(?P<id>[^/]+)|$)").match, _RUN),
    (re.compile(r"/v1/evals/[^/]+/runs(?:/(?P<id>[^/]+)|$)").match, _EVAL),
    (re.compile(r"/v1/responses(?:/(?P<id>[^/]+)|$)").match, _RESPONSE),
)
_ENDED = frozenset({"completed", "failed", "incomplete", "cancelled", "canceled", "expired"})
_is_id = re.compile(r"[!-~]{1,200}").fullmatch


class Owner(NamedTuple):
    """
    Whose a usage is.

    Attributes:
        is_stored: An object's that this call did not make.
        object_id: Under which it counts, however often it is told; None where the call's own record says it all.
    """

    is_stored: bool
    object_id: str | None


THIS_CALL = Owner(False, None)
_SOME_OBJECT = Owner(True, None)


class Reader:
    """
    Tells owners for one call.

    Args:
        endpoint: The path, as requested.
        may_make: Whether what it is answered may be new: it is a POST, or a WebSocket.

    Attributes:
        path: The endpoint's plain path.
    """

    __slots__ = ("_may_make", "path")

    def __init__(self, endpoint: str, *, may_make: bool) -> None:
        self.path = plain_path(endpoint)
        self._may_make = may_make

    def is_stored(self, document: dict[str, Any]) -> bool:
        """The document is an object that was there before: it is read, or it is the one that the path names."""
        if not self._may_make:
            return True
        name = document.get("id")
        # The first parts of a path are the API's own words.
        return isinstance(name, str) and name in self.path and name in self.path.split("/")[3:]

    def owner(self, document: dict[str, Any]) -> Owner | None:
        """Whose the document's usage is; None where it is not final: of what still runs, or of a step of it."""
        kind = document.get("object")
        if not isinstance(kind, str):
            kind = self._kind_of_place()
        if kind not in _KINDS:
            return _SOME_OBJECT if self.is_stored(document) else THIS_CALL
        if kind == _STEP:
            return None if self._may_make else _SOME_OBJECT
        is_stored, background, status = self.is_stored(document), document.get("background"), document.get("status")
        # What was made with its call had its usage then, and need not be kept in mind.
        if kind == _RESPONSE and (background is False or document.get("store") is False):
            return _SOME_OBJECT if is_stored else THIS_CALL
        if isinstance(status, str) and status not in _ENDED:
            return THIS_CALL if kind == _RESPONSE and not (is_stored or background) else None
        return Owner(is_stored, self._id(document, kind))

    def _kind_of_place(self) -> str | None:
        return next((kind for matches, kind in _PLACES if matches(self.path)), None)

    def _id(self, document: dict[str, Any], kind: str) -> str | None:
        """The object's id, by its own words or those of its place."""
        name = document.get("id")
        if name is None:
            places = (matches(self.path) for matches, found in _PLACES if found == kind)
            name = next((place["id"] for place in places if place), None)
        return name if isinstance(name, str) and _is_id(name) else None
