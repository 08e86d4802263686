"""Where a reader's position is kept in a test that has no database for it."""

from llmproxy.api_log.position import Position


class MemoryPositions:
    """Forgets."""

    def __init__(self) -> None:
        self._position = Position()

    def load(self) -> Position:
        return self._position

    def save(self, position: Position) -> None:
        self._position = position
