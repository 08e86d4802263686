"""Fixtures of the end-to-end tests."""

from collections.abc import Callable, Iterator

import pytest

from tests.raw_upstream import RawUpstream
from tests.servers import Server, Token


@pytest.fixture
def raw_upstream() -> Iterator[RawUpstream]:
    with RawUpstream() as upstream:
        yield upstream


@pytest.fixture
def token_for(proxy: Server) -> Callable[[str], Token]:
    """Issues tokens of projects with another upstream."""

    def issue(base_url: str) -> Token:
        return proxy.issue_token(proxy.create_project(base_url=base_url))

    return issue
