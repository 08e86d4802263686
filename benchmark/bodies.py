"""The bodies of the requests: the payload as it stands, with what the options lay over it, one for each prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import orjson

from benchmark.prompts import Length, Prompt, made_up
from benchmark.refused import Refused, read_file

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
PAYLOADS = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 16},
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 16},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "Hello"},
    "/v1/moderations": {"input": "Hello"},
}
# Bodies are made before the load. Of a long run they come again after so many, or when they have filled 64 MiB.
MOST_BODIES, FEWEST_BODIES = 1000, 16
MOST_BYTES = 64 * 1024 * 1024
LETTERS_PER_TOKEN = 6

Fields = dict[str, Any]


def payload_of(text: str | None, endpoint: str, method: str) -> bytes | None:
    """
    What was given as --payload, as text or behind an @ as a file; otherwise a small one of the endpoint's kind.

    None where nothing was given and the method needs none. Raises Refused where no small one is known.
    """
    if text is not None:
        return read_file(text[1:], "--payload") if text.startswith("@") else text.encode("utf-8", "surrogateescape")
    if method != "POST":
        return None
    known = PAYLOADS.get(_path(endpoint))
    if known is None:
        raise Refused(f"no default payload for {endpoint}: give one with --payload")
    return orjson.dumps(known)


@dataclass(frozen=True)
class Variety:
    """
    What differs from request to request.

    Attributes:
        prompts: Asked one after another, and from the beginning again.
        asked, answered: How many tokens are made up for a prompt, and how many may be made of it; None leaves both as
            the payload has them.
        needed: How many requests there will be, None where nobody knows.
    """

    prompts: Sequence[Prompt] = ()
    asked: Length | None = None
    answered: Length | None = None
    seed: int = 1
    needed: int | None = None

    @property
    def is_none(self) -> bool:
        """Whether nothing of the payload is touched."""
        return not self.prompts and self.asked is None and self.answered is None

    @property
    def count(self) -> int:
        """How many bodies are worth making."""
        if self.prompts:
            return len(self.prompts)
        if self.asked is None and (self.answered is None or not self.answered.deviation):
            return 1
        fit = MOST_BYTES // (LETTERS_PER_TOKEN * self.asked.mean) if self.asked else MOST_BODIES
        return max(FEWEST_BODIES, min(MOST_BODIES, fit, self.needed or MOST_BODIES))


SAME = Variety()


def bodies_of(payload: bytes | None, endpoint: str, *, stream: bool, variety: Variety = SAME) -> tuple[bytes, ...]:
    """
    The bodies to send in turn: `payload` as it stands, or made a stream that tells its usage, with what varies.

    Raises Refused for what is no JSON object, and where there is no place for a prompt.
    """
    if payload is None:
        if not variety.is_none:
            raise Refused("there is no payload to put a prompt or a length into: give one with --payload")
        return (b"",)
    fields = _fields_of(payload)
    bodies = []
    for laid_over in islice(_overlays(fields, endpoint, variety), variety.count):
        wanted = fields | laid_over
        wanted |= _streaming(wanted, endpoint) if stream else {}
        bodies.append(payload if wanted == fields else orjson.dumps(wanted))
    return tuple(bodies)


def _fields_of(payload: bytes) -> Fields:
    try:
        fields = orjson.loads(payload)
    except ValueError as error:
        raise Refused(f"--payload is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Refused("--payload is JSON, but not an object")
    return fields


def _overlays(fields: Fields, endpoint: str, variety: Variety) -> Iterator[Fields]:
    """What is laid over the payload, for one request after another, without end."""
    dice = random.Random(variety.seed)
    for prompt in cycle(variety.prompts or [{}]):
        asked = made_up(variety.asked.draw(dice), dice) if variety.asked else prompt
        laid_over = _asking(asked, fields) if isinstance(asked, str) else asked
        if variety.answered:
            laid_over = laid_over | {_length_field(fields | laid_over, endpoint): variety.answered.draw(dice)}
        yield laid_over


def _asking(text: str, fields: Fields) -> Fields:
    """The fields that ask this, in place of what the payload asks last; what a chat begins with stays."""
    messages = fields.get("messages")
    if isinstance(messages, list):
        return {"messages": [*messages[:-1], {"role": "user", "content": text}]}
    for name in ("input", "prompt"):
        if name in fields:
            return {name: text}
    raise Refused("the payload has no messages, input or prompt to put a prompt into")


def _length_field(fields: Fields, endpoint: str) -> str:
    """How this payload calls the most tokens of a response, or this endpoint does."""
    known = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    default = "max_output_tokens" if _path(endpoint).endswith("/responses") else "max_tokens"
    return next((name for name in known if name in fields), default)


def _streaming(fields: Fields, endpoint: str) -> Fields:
    """The fields that make it a stream, and one that tells its usage, where a payload does not say otherwise."""
    if fields.get("stream", True) is not True:
        raise Refused('--stream, but the payload says otherwise in its "stream"')
    options = fields.get("stream_options") or {}
    # Chats and completions tell it on demand; the others always do.
    on_demand = _path(endpoint).endswith("/completions") and isinstance(options, dict)
    return {"stream": True} | ({"stream_options": {"include_usage": True} | options} if on_demand else {})


def _path(endpoint: str) -> str:
    return endpoint.partition("?")[0].rstrip("/")
