"""What was seen of a stream of events whose end, and so whose usage, may never come."""

from __future__ import annotations

_MARK = b"data:"


class SeenEvents:
    """Counts events, of which each brings about one token. Fed with pieces that are cut anywhere."""

    __slots__ = ("_tail", "count")

    def __init__(self) -> None:
        self.count = 0
        self._tail = b""

    def feed(self, piece: bytes) -> None:
        """The next bytes, as they are without their coding."""
        if self._tail:
            piece = self._tail + piece
        self.count += piece.count(_MARK)
        # The beginning of a mark that the piece's end has cut off; a whole one was counted.
        cut = next((size for size in range(len(_MARK) - 1, 0, -1) if piece.endswith(_MARK[:size])), 0)
        self._tail = piece[len(piece) - cut :] if cut else b""
