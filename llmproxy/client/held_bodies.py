"""How much of request bodies a process holds that need not be held: they could go up as they come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

MIB = 1 << 20
MOST_BYTES = 64 * MIB
# Of one token: the others shall find room.
MOST_BYTES_OF_A_TOKEN = 16 * MIB


class HeldBodies:
    """The room for them in this process."""

    def __init__(self) -> None:
        self._bytes = 0
        self._bytes_of: dict[str, int] = {}

    def lend(self, token_id: str, size: int) -> Callable[[], None] | None:
        """Room for `size` bytes, to be given back by calling what is returned, once; None where there is none."""
        of_token = self._bytes_of.get(token_id, 0) + size
        if self._bytes + size > MOST_BYTES or of_token > MOST_BYTES_OF_A_TOKEN:
            return None
        self._bytes += size
        self._bytes_of[token_id] = of_token
        return partial(self._take_back, token_id, size)

    def _take_back(self, token_id: str, size: int) -> None:
        self._bytes -= size
        self._bytes_of[token_id] -= size
        if not self._bytes_of[token_id]:
            del self._bytes_of[token_id]
