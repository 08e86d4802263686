"""
Compares how the proxy reads request bodies with how Python's own parser does, over bodies that are made to mislead.

    python -m measure.judge [--bodies 1000000] [--seed 1]

A body is JSON with the names that rules look at, some of them twice, in other letters or with escapes, in places
where they count and where they do not, and then damaged in half of the cases. Each is read whole and in pieces cut
anywhere. Where the three do not agree, the body is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body.held import read_held
from llmproxy.limits.body.reading import (
    BROUGHT,
    COUNTED,
    FREE,
    FREE_INSIDE,
    GRADERS,
    ITEMS,
    TELLING,
    WATCHED,
    Parts,
    Reading,
    brought,
    is_like_brought,
    is_misleading,
    names_models,
)
from llmproxy.limits.body.scanner import scan

NAMES = (
    "model", "messages", "input", "tools", "type", "n", "session", "prompt", "metadata", "parameters", "schema",
    "image_url", "url", "file_id", "file_data", "input_audio", "data", "audio", "id", "content", "moderation",
    "grader", "instructions", "max_tokens", "stream", "x", "", "mode", "items", "item", "graders", "headers",
    "attributes", "input_schema", "tools", "tools", "input", "reasoning", "models", "fallbacks",
)  # fmt: skip
MISLEADING = (
    "model ", "Model", "MODEL", "model\0", "\u017fession", "reasoning_e\ufb00ort", "Too\u212as", "TOOLS",
    "rea\u017foning",
)  # fmt: skip
TEXTS = (
    "gpt-4o-mini", "gpt-4o", "", "data:image/png;base64,AAAA", "https://x/y", "item_reference", "ü🌿\u0000\n\"\\/",
    "\ud83d", "\udc00", "\ud83d\udc00", "model", '"model":"gpt-4o"', "a" * 30,
)  # fmt: skip
SCALARS = ("0", "-0", "1", "-1.5", "1e5", "1E+2", "12345678901234567890", "true", "false", "null")
FAULTS = (
    b"NaN", b"-Infinity", b"01", b"+1", b"1.", b".5", b"\\x41", b"\\u12", b"'", b"//", b"/* */", b",", b"{", b"}",
    b"[", b"]", b":", b'"', b"\\", b"\x00", b"\x0b", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc2\xa0",
    b"tru", b"True", b'"model":"gpt-4o",', b',"model":"gpt-4o"', b"\\u0022", b"\\ud83d", b"\x1f", b"\x7f", b"1e999",
    b" ", b"\n",
)  # fmt: skip


def main() -> None:
    """Compare, and print what was not read alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began, refused, differing = time.monotonic(), 0, 0
    for body, chosen in bodies(options.bodies, options.seed):
        readings = read_in_all_ways(body, chosen)
        refused += readings[0] is None
        if readings[1:] != readings[:-1]:
            differing += 1
            print(body, *readings, sep="\n  ")
    took_s = time.monotonic() - began
    print(f"{options.bodies:,} bodies, {refused:,} of them refused, {differing:,} read differently, {took_s:.0f} s")
    sys.exit(differing > 0)


def bodies(count: int, seed: int) -> Iterator[tuple[bytes, random.Random]]:
    """So many bodies, each with the source of chance that made it."""
    for number in range(count):
        chosen = random.Random(f"{seed}/{number}")
        yield _body(chosen), chosen


def read_in_all_ways(body: bytes, chosen: random.Random) -> list[Reading | None]:
    """By Python's parser, held, byte by byte or cut anywhere; None where the body is refused."""
    cuts = sorted(chosen.choices(range(len(body) + 1), k=chosen.choice([0, 1, 5, 20])))
    if chosen.random() < 0.2:
        cuts = list(range(len(body)))
    edges = [0, *cuts, len(body)]
    pieces = [body[begin:end] for begin, end in pairwise(edges)]
    return [_or_none(lambda: python_reading(body)), _or_none(lambda: read_held(body)), _or_none(lambda: scan(pieces))]


def _or_none(read: Callable[[], Reading]) -> Reading | None:
    try:
        reading = read()
    except AmbiguousBody:
        return None
    # What stands in a free place is nobody's business, and one of the readers leaves it out.
    return reading._replace(members=_without_free(reading.members))


def _without_free(value: Any, under: str = "", *, is_outermost: bool = True) -> Any:
    if isinstance(value, list):
        return [_without_free(entry, is_outermost=False) for entry in value]
    if not isinstance(value, dict):
        return value
    names_any = is_outermost or under == GRADERS
    left_out = {name for name in value if name in FREE_INSIDE and isinstance(value[name], dict) and not names_any}
    return {
        name: {} if name in left_out else _without_free(inner, name, is_outermost=False)
        for name, inner in value.items()
    }


# Bodies.


def _body(chosen: random.Random) -> bytes:
    value = _object(chosen, 0) if chosen.random() < 0.95 else _value(chosen, 0)
    body = (_space(chosen) + value + _space(chosen)).encode("utf-8", "surrogatepass")
    for _ in range(chosen.choice([0, 0, 0, 0, 0, 0, 1, 2])):
        body = _damaged(chosen, body)
    if chosen.random() < 0.01:
        body = body.decode("utf-8", "replace").encode(chosen.choice(["utf-16", "utf-8-sig", "utf-32", "utf-16-le"]))
    return body


def _damaged(chosen: random.Random, body: bytes) -> bytes:
    at = chosen.randrange(len(body) + 1)
    kind = chosen.randrange(5)
    if kind == 0:
        return body[:at]
    if kind == 1:
        return body[:at] + body[at + chosen.randint(1, 3) :]
    if kind == 2:
        end = chosen.randint(at, len(body))
        return body[:end] + body[at:]
    return body[:at] + chosen.choice(FAULTS) + body[at:]


def _object(chosen: random.Random, depth: int) -> str:
    members = []
    for _ in range(chosen.choice([0, 1, 2, 3, 5])):
        name = _text(chosen, chosen.choice(NAMES if chosen.random() < 0.98 else MISLEADING))
        members.append(f"{_space(chosen)}{name}{_space(chosen)}:{_value(chosen, depth + 1)}")
    return "{" + (",".join(members) or _space(chosen)) + "}"


def _value(chosen: random.Random, depth: int) -> str:
    kind = chosen.random()
    if kind < 0.45 or depth > chosen.choice([2, 4, 7]):
        value = _text(chosen, chosen.choice(TEXTS)) if kind < 0.3 else chosen.choice(SCALARS)
    elif kind < 0.75:
        value = _object(chosen, depth)
    else:
        entries = ",".join(_value(chosen, depth + 1) for _ in range(chosen.choice([0, 1, 1, 2, 4])))
        value = f"[{entries or _space(chosen)}]"
    return f"{_space(chosen)}{value}{_space(chosen)}"


def _space(chosen: random.Random) -> str:
    return chosen.choice(["", "", "", " ", "\n\t", "\r "])


def _text(chosen: random.Random, text: str) -> str:
    how = chosen.random()
    if how < 0.6:
        return json.dumps(text)
    if how < 0.8:
        # What is no character on its own cannot be written without an escape.
        return json.dumps(text, ensure_ascii=any("\ud800" <= char <= "\udfff" for char in text))
    units = text.encode("utf-16-be", "surrogatepass")
    return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'


# Python's own reading.


class _Pairs(list[tuple[str, Any]]):
    """An object with all its members."""


def python_reading(body: bytes) -> Reading:
    """The reading of a body by Python's parser, which can be asked for every name that it saw."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_Pairs, parse_constant=_refused, parse_int=_number)
    except ValueError as exc:
        raise AmbiguousBody from exc
    if not isinstance(document, _Pairs):
        raise AmbiguousBody
    models, parts = set[str](), Parts()
    members = _built(document, models, is_outermost=True)
    if values := [(name, _built(value, set(), name)) for name, value in _brought_by_items(document)]:
        members["input"] = _built_anew = brought(values)
        _built(_as_pairs(_built_anew), models)
    for name, value in document:
        _count(parts, name, value)
    has_stored_prompt = any(name == "prompt" and isinstance(value, _Pairs) for name, value in document)
    return Reading(members, frozenset(models), len(body), parts, has_stored_prompt)


def _refused(_: str) -> None:
    raise ValueError


def _number(text: str) -> int | float:
    value = int(text)
    return value if -(2**63) <= value < 2**64 else float(text)


def _brought_by_items(document: _Pairs) -> Iterator[tuple[str, Any]]:
    for name, place in document:
        if name in ITEMS and isinstance(place, list):
            for item in [place] if isinstance(place, _Pairs) else place:
                if isinstance(item, _Pairs):
                    yield from _brought_by(item)


def _brought_by(item: _Pairs) -> Iterator[tuple[str, Any]]:
    for name, value in item:
        if is_like_brought(name):
            raise AmbiguousBody
        if name in BROUGHT and isinstance(value, list):
            yield name, value


def _as_pairs(value: Any) -> Any:
    """What was built, as it is built from."""
    if isinstance(value, dict):
        return _Pairs((name, _as_pairs(inner)) for name, inner in value.items())
    return [_as_pairs(entry) for entry in value] if isinstance(value, list) else value


def _built(value: Any, models: set[str], under: str = "", *, is_outermost: bool = False) -> Any:
    if not isinstance(value, _Pairs):
        return [_built(entry, models) for entry in value] if isinstance(value, list) else value
    names = [name for name, _ in value]
    for name, inner in value:
        says_much = name in WATCHED or names_models(name) or isinstance(inner, list)
        if is_misleading(name) or (says_much and names.count(name) > 1):
            raise AmbiguousBody
    built = {}
    for name, inner in value:
        if name in FREE and is_outermost:
            continue
        is_free = name in FREE_INSIDE and isinstance(inner, _Pairs) and not is_outermost and under != GRADERS
        built[name] = {} if is_free else _built(inner, models, name)
        if name == "model" and isinstance(inner, str):
            models.add(inner)
        elif name == "model" and (is_outermost or not (inner is None or isinstance(inner, _Pairs))):
            raise AmbiguousBody
        elif names_models(name):
            models |= _texts(built[name])
    return built


def _texts(value: Any) -> set[str]:
    """Every text, but of objects that have a model of their own."""
    if isinstance(value, dict):
        value = [] if isinstance(value.get("model"), str) else list(value.values())
    return (
        set().union(*map(_texts, value)) if isinstance(value, list) else {value} if isinstance(value, str) else set()
    )


def _count(parts: Parts, name: str, value: Any) -> None:
    if name == "prompt" and type(value) is list:
        parts.prompts = max(1, sum(isinstance(entry, str) or type(entry) is list for entry in value))
    elif name == "input" and isinstance(value, str):
        parts.characters = len(value)
    if name in ITEMS:
        for item in [value] if isinstance(value, _Pairs) or not isinstance(value, list) else value:
            parts.add_item(has_id=True in _are_texts(item, "id"), has_type=_are_texts(item, "type") == {True})
    if name in COUNTED:
        _count_inside(parts, name, value, depth=0 if name in ITEMS else 2)


def _are_texts(item: Any, wanted: str) -> set[bool]:
    """Of each member of this name, for another reader may take any of them, whether it is a text."""
    return {isinstance(value, str) for name, value in item if name == wanted} if isinstance(item, _Pairs) else set()


def _count_inside(parts: Parts, under: str, value: Any, depth: int) -> None:
    """
    Args:
        depth: How deep in a place of items it stands, of whose objects what they bring is counted apart; 2 is deeper.
    """
    if isinstance(value, _Pairs):
        for name, inner in value:
            if depth < 2 and name in BROUGHT and isinstance(inner, list):
                continue
            if isinstance(inner, str) and name in TELLING:
                parts.add_text(under, name, inner, len(inner))
            _count_inside(parts, name, inner, depth=2)
    elif isinstance(value, list):
        for entry in value:
            _count_inside(parts, under, entry, depth + 1)


if __name__ == "__main__":
    main()
