"""What is asked in turn: the prompts of a file, or texts made up of so many tokens."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

import orjson

from benchmark.refused import Refused, read_file

# The text of a prompt, or fields that are laid over the payload.
Prompt = str | dict[str, Any]

_LENGTH = re.compile(r"(\d{1,7})(?:(?:±|\+-|\+/-)(\d{1,7}))?")
# Each is one token behind a space, in cl100k_base as in o200k_base.
_TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service "
    "friend father power hour game line end member law car city community name president team minute idea body "
    "information back parent face level office door health person art war history party result change morning "
    "reason research moment air teacher force education foot policy music market plan paper table river summer "
    "winter light sound voice color letter garden window street bridge forest island mountain ocean field stone "
    "glass metal engine machine signal measure balance"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True)
class Length:
    """So many tokens on average, with that standard deviation; at least one."""

    mean: int
    deviation: int = 0

    def draw(self, dice: random.Random) -> int:
        """The next one."""
        return max(1, round(dice.gauss(self.mean, self.deviation))) if self.deviation else self.mean


def parse_length(text: str, option_name: str) -> Length:
    """Reads `512` or `512±128`, for which `512+-128` will do. Raises Refused for anything else."""
    found = _LENGTH.fullmatch(text.replace(" ", ""))
    if found is None or int(found[1]) < 1:
        raise Refused(f"{option_name} is a number of tokens, such as 512 or 512±128, not {text!r}")
    return Length(int(found[1]), int(found[2] or 0))


def made_up(tokens: int, dice: random.Random) -> str:
    """A text of so many tokens, which no cache has seen; what a chat puts around it is not in there."""
    return " ".join(dice.choices(_WORDS, k=tokens))


def read_prompts(path: str) -> list[Prompt]:
    """
    The prompts of a file with one JSON value on each line.

    A string is the text, and so is an object that has nothing but a `prompt` or a `text`; any other object holds
    fields of the payload, or all of it.
    """
    lines = read_file(path, "--prompts").split(b"\n")
    prompts = [_prompt(line, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise Refused(f"--prompts: {path} holds no prompt")
    return prompts


def _prompt(line: bytes, number: int) -> Prompt:
    try:
        found = orjson.loads(line)
    except ValueError as error:
        raise Refused(f"--prompts: line {number} is not JSON: {error}") from None
    match found:
        case {"prompt": str(text), **others} | {"text": str(text), **others} if not others:
            return text
        case str() | dict():
            return found
    raise Refused(f"--prompts: line {number} is neither a text nor an object")
