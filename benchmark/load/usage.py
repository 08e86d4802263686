"""How many tokens the server says it took and made: the `usage` of a response, or of the last events of a stream."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

_OBJECT = re.compile(rb"\s*:\s*(?=\{)")
_DECODER = json.JSONDecoder()
# The longest that is looked at; OpenAI's have 400 bytes.
LONGEST_USAGE = 8192


@dataclass(frozen=True, slots=True)
class Tokens:
    """None where the server tells no such count. `reasoning` are those of `output` that no response shows."""

    input: int | None
    output: int | None
    reasoning: int = 0


def tokens_in(text: bytes) -> Tokens | None:
    """The counts of the last `usage` in JSON, or in an event that holds some; None where none has any."""
    at = len(text)
    # Not all of the JSON: embeddings are megabytes of numbers, and what is read here waits for nobody.
    while (at := text.rfind(b'"usage"', 0, at)) >= 0:
        begins = _OBJECT.match(text, at + len(b'"usage"'))
        if begins and (tokens := _tokens(text[begins.end() : begins.end() + LONGEST_USAGE])):
            return tokens
    return None


def _tokens(text: bytes) -> Tokens | None:
    try:
        usage, _ = _DECODER.raw_decode(text.decode("latin-1"))
    except ValueError:
        return None
    taken = _count(usage, "prompt_tokens", "input_tokens")
    made = _count(usage, "completion_tokens", "output_tokens")
    if taken is None and made is None:
        return None
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    reasoning = _count(details, "reasoning_tokens") if isinstance(details, dict) else None
    return Tokens(taken, made, min(reasoning or 0, made or 0))


def _count(counts: dict[str, Any], *names: str) -> int | None:
    """The first of these that is a number of tokens; JSON may write 11 as 11.0."""
    for name in names:
        value = counts.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            return math.ceil(value)
    return None
