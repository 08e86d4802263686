import pytest

from benchmark.mock_openai import MockOpenAI


@pytest.fixture
def mock(upstream: MockOpenAI) -> MockOpenAI:
    """The mock upstream by the name that it has in the benchmark's own tests."""
    return upstream
