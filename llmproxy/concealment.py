"""
What an upstream shows of its caller's account, kept out of all that comes down or is written: the project's key, and
where the operator wants it the account's name.

A key is recognised as it stands, in one piece. What an upstream makes of it (base64, half of it) is beyond anybody's
recognising; a key shorter than MIN_CHARS, which nobody can keep secret, is not looked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson

MIN_CHARS = 12
ACCOUNT_HEADERS = frozenset({"openai-organization", "openai-project"})
# What no header holds: in place of a key that is not looked for.
_NOWHERE = "\0"

Fields = list[tuple[str, str]]


class Concealment:
    """
    What to conceal of one account.

    Args:
        key: The key; it is masked by as many asterisks.
        headers: Names of headers, in lower case, that are left out.

    Attributes:
        has_key: There is a key to look for.
    """

    __slots__ = ("_as_json", "_headers", "_key", "_key_bytes", "_mask", "has_key")

    def __init__(self, key: str = "", *, headers: frozenset[str] = frozenset()) -> None:
        self.has_key = len(key) >= MIN_CHARS
        self._key = key if self.has_key else _NOWHERE
        self._key_bytes = self._key.encode("latin-1", "replace")
        self._as_json = orjson.dumps(self._key)[1:-1]
        self._mask = "*" * len(self._key)
        self._headers = headers

    def __repr__(self) -> str:
        return "Concealment()"

    def concerns(self, data: bytes) -> bool:
        """Whether bytes of a head may hold something to conceal: a tenth of what looking at each header takes."""
        return self._key_bytes in data or bool(self._headers)

    def fields(self, headers: Fields) -> Fields:
        """An upstream's headers, or trailers, as they may be seen."""
        if self._key in "\n".join(chain.from_iterable(headers)):
            headers = [(self.text(name), self.text(value)) for name, value in headers]
        if self._headers:
            headers = [pair for pair in headers if pair[0].lower() not in self._headers]
        return headers

    def text(self, text: str) -> str:
        """A text as it may be seen."""
        return text.replace(self._key, self._mask)

    def is_in(self, json: bytes) -> bool:
        """Whether a JSON text, as orjson writes it, holds the key in a text or a name."""
        return self.has_key and self._as_json in json

    def value(self, told: Any) -> Any:
        """The same value, as it may be seen."""
        if isinstance(told, str):
            return self.text(told)
        if isinstance(told, dict):
            return {self.value(name): self.value(value) for name, value in told.items()}
        return [self.value(item) for item in told] if isinstance(told, list) else told

    def is_in_pieces(self, body: Iterable[bytes]) -> bool:
        """Whether a body that comes in pieces holds the key."""
        key, before = self._key_bytes, b""
        for piece in body:
            data = before + piece
            if key in data:
                return True
            before = data[-len(key) :]
        return False

    def body_mask(self) -> BodyMask:
        """Masks the key in a body."""
        return BodyMask(self._key_bytes)


class BodyMask:
    """
    Masks a key in a body that comes in pieces, wherever they are cut. As many bytes go out as came in.

    Held back is at most what may be the beginning of the key.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._mask = b"*" * len(key)
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What to send for one piece; may be empty."""
        data = (self._held + piece).replace(self._key, self._mask)
        begins_at = self._start_of_a_key(data)
        self._held = data[begins_at:]
        return data[:begins_at]

    def finish(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return held

    def _start_of_a_key(self, data: bytes) -> int:
        """Where the longest end of `data` begins that the key begins with; the end where there is none."""
        at = max(0, len(data) - len(self._key) + 1)
        while (at := data.find(self._key[:1], at)) >= 0:
            if self._key.startswith(data[at:]):
                return at
            at += 1
        return len(data)


@lru_cache(maxsize=1024)
def concealment_of(key: str, *, hides_account: bool) -> Concealment:
    """The concealment for a project's key, and for its account's headers where that is asked."""
    return Concealment(key, headers=ACCOUNT_HEADERS if hides_account else frozenset())


NOTHING = Concealment()
