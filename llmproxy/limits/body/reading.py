"""
What a body says, as far as rules and budgets ask.

Some places are *free*: what callers say to the model, and what is theirs to name. Of them only is counted what a
model reads besides text, and kept which tools an item brings. Everything else is kept, and a model may stand anywhere
in it. Which places are free was decided by the types of OpenAI's SDK (3.54): in none of them a model may stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Any, NamedTuple

from llmproxy.errors import AmbiguousBody

# Members of the outermost object whose content is the caller's. Those that are read by the model are counted.
FREE = frozenset(
    {"messages", "input", "prompt", "instructions", "item", "items", "images", "mask", "metadata", "attributes"}
)
COUNTED = FREE - {"metadata", "attributes"}
# Those of them that hold items, which may bring what the outermost object has: tools, and another effort.
ITEMS = frozenset({"input", "item", "items"})
BROUGHT = ("tools", "reasoning")
# Objects inside of the others whose members the caller names: JSON schemas, what is passed on, what is filled in.
FREE_INSIDE = frozenset(
    {
        "annotations", "arguments", "attributes", "env", "headers", "input_schema", "item", "item_schema",
        "json_schema", "metadata", "output_schema", "parameters", "request_metadata", "sample", "schema",
        "state_variables", "variables",
    }
)  # fmt: skip
# Its members are graders, or it is one itself. The caller names them, and may name one as a free place.
GRADERS = "graders"

# Every name that rules and budgets go by. One that is there twice, or in other letters, another reader may take for
# what this one did not.
WATCHED = frozenset(
    {
        "background", "best_of", "conversation", "effort", "extra_body", "functions", "images", "input",
        "input_audio_transcription", "mask", "max_completion_tokens", "max_completions_tokens", "max_output_tokens",
        "max_response_output_tokens", "max_tokens", "max_tool_calls", "messages", "modalities", "mode", "model",
        "moderation", "multi_agent", "n", "output_format", "output_modalities", "partial_images", "plugins", "preset",
        "previous_response_id", "prompt", "quality", "reasoning", "reasoning_effort", "response", "route", "seconds",
        "service_tier", "session", "size", "store", "stream", "tools", "transcription", "type", "web_search_options",
    }
)  # fmt: skip

# Types of items that may stand for more than they say: the upstream has kept it, or it is packed and sealed.
REFERRING = (
    "item_reference", "reasoning", "compaction", "image_generation_call", "web_search_call", "file_search_call",
    "code_interpreter_call",
)  # fmt: skip
# Members of objects in free places that tell of something else than text.
TELLING = frozenset({"data", "file_data", "file_id", "file_url", "id", "image_url", "type", "url"})


@dataclass(slots=True)
class Parts:
    """
    What stands in free places and is no text.

    Attributes:
        inline: How many images and files stand there, `inline_chars` long together; `audio_chars` likewise.
        stored: How many things there are that the model reads and that are not in the body, or packed in it: a
            document's pages and text may be many times as long as its bytes.
        prompts: How many completions of their own a `prompt` that is a list asks for.
        characters: Of an `input` that is one text.
    """

    inline: int = 0
    inline_chars: int = 0
    audio_chars: int = 0
    stored: int = 0
    prompts: int = 1
    characters: int = 0

    def add_text(self, parent: str, name: str, begin: str, characters: int) -> None:
        """
        A member whose value is a text and whose name is one of TELLING; others say nothing.

        Args:
            parent: The name under which the member's object stands, or the list that it is in.
            begin: The text's first characters, as many as the word it is compared with.
        """
        if name in ("image_url", "file_url", "file_data") or (name == "url" and parent == "image_url"):
            is_inline = name == "file_data" or begin.startswith("data:")
            if is_inline:
                self._add_inline(characters)
            if not is_inline or name.startswith("file"):
                self.stored += 1
        elif name == "data" and parent == "input_audio":
            self.audio_chars += characters
        elif name == "file_id" or (name == "id" and parent == "audio") or (name == "type" and begin in REFERRING):
            self.stored += 1

    def add_item(self, *, has_id: bool, has_type: bool) -> None:
        """One item. The API takes one that names no type, which is a text, for a reference to the one with its id."""
        if has_id and not has_type:
            self.stored += 1

    def _add_inline(self, characters: int) -> None:
        self.inline += 1
        self.inline_chars += characters


class Reading(NamedTuple):
    """
    One body.

    Attributes:
        members: The outermost object without its free places, but for what their items bring, which stands in
            `input`. Texts may be cut: whatever is compared is short.
        models: Everything that is named `model`, wherever a model may stand.
        size: Bytes of the body.
        parts: None where nobody asked.
        has_stored_prompt: `prompt` names one that the upstream keeps, with tools and a model of its own.
    """

    members: Mapping[str, Any]
    models: frozenset[str]
    size: int
    parts: Parts | None = None
    has_stored_prompt: bool = False

    @property
    def model(self) -> str | None:
        """The outermost object's own."""
        return self.members.get("model")


_MOST_KEPT_CHARS = 64


class _Kind(Enum):
    """What a name is to rules and budgets."""

    NOTHING = auto()
    MISLEADING = auto()
    MODELS = auto()


def is_misleading(name: str) -> bool:
    """Whether another reader may take a name for one of WATCHED that it is not: `Model`, or one with a NUL behind."""
    return _kind_of(name) is _Kind.MISLEADING


def names_models(name: str) -> bool:
    """
    Whether a member of this name has more models: `models` and `fallbacks`, from which routers such as OpenRouter and
    LiteLLM take others when one fails, and whatever else is called a model, but for `model` itself.
    """
    return _kind_of(name) is _Kind.MODELS


def _kind_of(name: str) -> _Kind:
    # Callers choose the names: what is kept of them is short.
    return _known_kind_of(name) if len(name) <= _MOST_KEPT_CHARS else _read_kind_of(name)


def _read_kind_of(name: str) -> _Kind:
    plain = _plain(name)
    if plain in WATCHED:
        return _Kind.NOTHING if name in WATCHED else _Kind.MISLEADING
    return _Kind.MODELS if plain.endswith(("model", "models")) or "fallback" in plain else _Kind.NOTHING


_known_kind_of = lru_cache(maxsize=4096)(_read_kind_of)


def is_like_brought(name: str) -> bool:
    """Whether another reader may take a name for one of BROUGHT that it is not."""
    return is_misleading(name) and _plain(name) in BROUGHT


def brought(values: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    """
    What Reading's members have as `input`.

    Args:
        values: What items have under the names of BROUGHT. What an MCP server has listed are no tools of the call,
            for a tool has a type; a model in it is looked at all the same.
    """
    return [_tools_brought(value) if name == "tools" else {name: value} for name, value in values]


def _tools_brought(tools: Any) -> dict[str, Any]:
    return {
        "tools": [tool for tool in listed(tools) if not _is_of_mcp_list(tool)],
        "listed": [tool for tool in listed(tools) if _is_of_mcp_list(tool)],
    }


def listed(tools: Any) -> list[Any]:
    """What stands under `tools`, one or a list of them, as a list."""
    return tools if isinstance(tools, list) else [tools]


def _is_of_mcp_list(tool: Any) -> bool:
    return isinstance(tool, dict) and "input_schema" in tool and "type" not in tool


def objects_in(members: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What Reading calls members, and each object inside that is not free."""
    places: list[Any] = [members]
    while places:
        place = places.pop()
        if place.__class__ is list:
            places += [entry for entry in place if entry.__class__ is dict or entry.__class__ is list]
            continue
        yield place
        for name, value in place.items():
            if value.__class__ is list:
                places.append(value)
            elif value.__class__ is dict:
                if name not in FREE_INSIDE or place is members:
                    places.append(value)
                if name == GRADERS:
                    places += [
                        inner for name, inner in value.items() if name in FREE_INSIDE and inner.__class__ is dict
                    ]


def models_in(members: Mapping[str, Any]) -> frozenset[str]:
    """
    Everything that is named `model` in what Reading calls members, and every text where more of them are named.

    An object or nothing may be named `model`, too, but for the outermost object's own. Raises AmbiguousBody.
    """
    if not isinstance(members.get("model", ""), str):
        raise AmbiguousBody("`model` must be a text.", param="model")
    models = set[str]()
    for place in objects_in(members):
        for name in place:
            if name in WATCHED or (kind := _kind_of(name)) is _Kind.NOTHING:  # nearly always
                continue
            if kind is _Kind.MISLEADING:
                raise AmbiguousBody(f"The request body has a name that may be read as `{_plain(name)}`.")
            models |= _texts_in(place[name])
        model = place.get("model")
        if isinstance(model, str):
            models.add(model)
        elif model is not None and not isinstance(model, dict):
            raise AmbiguousBody("`model` must be a text, wherever it stands.", param="model")
    return frozenset(models)


def _texts_in(value: Any) -> set[str]:
    """Every text, however deep, but in free places, and in objects with a model of their own, found as any other."""
    texts, places = set[str](), [("", value)]
    while places:
        under, place = places.pop()
        if isinstance(place, str):
            texts.add(place)
        elif isinstance(place, list):
            places += [("", entry) for entry in place]
        elif isinstance(place, dict) and not isinstance(place.get("model"), str):
            places += [
                (name, inner)
                for name, inner in place.items()
                if name not in FREE_INSIDE or under == GRADERS or inner.__class__ is not dict
            ]
    return texts


def _plain(name: str) -> str:
    return name.partition("\0")[0].strip().casefold()
