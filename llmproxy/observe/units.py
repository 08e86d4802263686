"""
What a parsed body or event says of a call's price besides tokens: the tier that served it, calls of hosted tools,
sizes and lengths.

Takes nothing on trust, as `facts` does: counts are whole and not negative, names are short words.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

# Members of a document that this module reads.
NAMES = ("service_tier", "background_options", "object", "size", "quality", "seconds")

_CALL = "_call"
_PREVIEW = "web_search_preview"
# These actions of a web search cost nothing, a search alone does.
_FREE_ACTIONS = ("open_page", "find_in_page")
_SMALLEST = "1g"
_MAX_TOOLS = 16
_MAX_COUNT = 2**53
_is_word = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}", re.IGNORECASE).fullmatch
_USUAL = frozenset({"default", "auto", "flex", "priority", "scale"})
_is_tool = re.compile(r"[a-z][a-z0-9_]{0,39}").fullmatch

# An item's type, its action's, or where its code ran; of the tools, which search there is, and what containers.
# Within a string the quotes would be escaped.
_marks = re.compile(
    rb'"(?:type"\s*+:\s*+"([a-z0-9_]{1,40}_call|open_page|find_in_page|web_search_preview[a-z0-9_]{0,20})"'
    rb'|container_id"\s*+:\s*+"([\w-]{1,60})"|container"\s*+:\s*+(\{)|memory_limit"\s*+:\s*+"(\w{1,8})")'
).findall
_QUICK_MARKS = (b'_call"', b'_page"', b'"container', b'"memory_limit"', b'"web_search_preview')
# Longer than what `_marks` matches in documents that anybody writes.
_CARRIED_BYTES = 128
_MAX_CONTAINERS = 1000


def word(value: object) -> str | None:
    """A short word such as "flex", "1024x1536" or "24h", as it was told; None for anything else."""
    return value if isinstance(value, str) and (value in _USUAL or _is_word(value)) else None


def whole(value: object) -> int | None:
    """A count, which some objects tell as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def read_units(document: dict[str, Any]) -> dict[str, Any]:
    """
    What a response's document tells, in the record's names, each only if it was told.

    `tool_calls` by tool, `completion_window` of what runs in the background, `size` and `quality` of images, `size`
    and `seconds` of a video.
    """
    units: dict[str, Any] = {}
    if "output" in document and (calls := _tool_calls(document)):
        units["tool_calls"] = calls
    options = document.get("background_options")
    if isinstance(options, dict) and (window := word(options.get("completion_window"))):
        units["completion_window"] = window
    for name in ("size", "quality"):
        if name in document and (told := word(document[name])):
            units[name] = told
    if document.get("object") == "video" and (seconds := whole(document.get("seconds"))) is not None:
        units["seconds"] = seconds
    return units


class OutputTally:
    """
    What counts in a response's output: how many items of each type, and the containers that code ran in.

    Fed with the bytes of a document that is too large to be parsed, cut anywhere, or taken from a parsed one.

    Attributes:
        types: Of items and of their actions, and of tools that search.
        containers: Their ids.
        makes_containers: The tools make them, of the size `memory_limit`; else the request named one, which was paid
            for when it was made.
    """

    def __init__(self) -> None:
        self.types: Counter[str] = Counter()
        self.containers: set[str] = set()
        self.makes_containers = False
        self.memory_limit: object = None
        self._carried = b""

    @classmethod
    def of(cls, items: list[Any], tools: object) -> OutputTally:
        """The tally of parsed items, and of the tools that there were."""
        tally = cls()
        for item in _dicts(items):
            action = item.get("action")
            for kind in (item.get("type"), action.get("type") if isinstance(action, dict) else None):
                if isinstance(kind, str):
                    tally.types[kind] += 1
            if isinstance(container_id := item.get("container_id"), str):
                tally.containers.add(container_id)
        for tool in _dicts(tools):
            if isinstance(kind := tool.get("type"), str):
                tally.types[kind] += 1
            if isinstance(made := tool.get("container"), dict):
                tally.makes_containers, tally.memory_limit = True, made.get("memory_limit")
        return tally

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the document."""
        carried = self._carried
        data = carried + data
        self._carried = data[-_CARRIED_BYTES:]
        if any(mark in data for mark in _QUICK_MARKS):
            self._count(data, 1)
            # What is whole in the bytes of before has been counted.
            self._count(carried, -1)

    def _count(self, data: bytes, times: int) -> None:
        for kind, container_id, begins_container, memory_limit in _marks(data):
            if kind:
                self.types[kind.decode()] += times
            elif begins_container:
                self.makes_containers = True
            elif memory_limit:
                self.memory_limit = memory_limit.decode()
            elif len(self.containers) < _MAX_CONTAINERS:
                self.containers.add(container_id.decode())

    def calls(self) -> dict[str, int]:
        """How often each tool was called, by the type of its items without their `_call`."""
        calls = {kind.removesuffix(_CALL): count for kind, count in self.types.items() if kind.endswith(_CALL)}
        if searches := calls.pop("web_search", 0) - sum(self.types[action] for action in _FREE_ACTIONS):
            # Calls of both searches are of one type, their prices are not.
            is_preview = any(kind.startswith(_PREVIEW) for kind in self.types)
            calls[_PREVIEW if is_preview else "web_search"] = searches
        if self.makes_containers and self.containers:
            calls[container(self.memory_limit)] = len(self.containers)
        known = {name: count for name, count in calls.items() if count > 0 and _is_tool(name)}
        return dict(list(known.items())[:_MAX_TOOLS])


def _tool_calls(document: dict[str, Any]) -> dict[str, int]:
    output = document.get("output")
    if isinstance(output, list):
        return OutputTally.of(output, document.get("tools")).calls()
    if isinstance(output, OutputTally) and document.get("object") == "response":
        return output.calls()
    return {}


def container(memory_limit: object) -> str:
    """The name that a container of this size is priced by."""
    size = word(memory_limit) or _SMALLEST
    return "container" if size == _SMALLEST else f"container_{size}"


def _dicts(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
