"""A receiver of shipped records on a real socket, for tests of the whole way there."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.post_server import PostHandler, PostServer


class Receiver:
    """Takes JSON arrays by POST, or answers `status` to them."""

    def __init__(self) -> None:
        self.status = 200
        self.records: list[dict[str, Any]] = []
        self._server = PostServer(self._take)
        self.url = f"{self._server.url}/records?key=planted-receiver-secret"
        self.close = self._server.close

    def _take(self, handler: PostHandler, body: bytes) -> None:
        if self.status == 200:
            self.records += json.loads(body)
        handler.answer(self.status)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()
