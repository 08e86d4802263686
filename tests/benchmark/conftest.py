"""The mock upstream by the name that it has in the benchmark's own tests, and one that nobody else has called."""

from collections.abc import Iterator

import pytest

from mock_openai.mock import MockOpenAI


@pytest.fixture
def mock(upstream: MockOpenAI) -> MockOpenAI:
    return upstream


@pytest.fixture
def lonely_mock() -> Iterator[MockOpenAI]:
    """A mock of its own, for tests that count connections: proxies of other tests keep theirs to the shared one."""
    with MockOpenAI() as mock:
        yield mock
