"""What tests of the running product share: a mock upstream, and the proxy on both of its servers."""

from collections import Counter
from collections.abc import Iterator

import pytest

from benchmark.mock_openai import MockOpenAI
from tests.servers import DEPLOYED, EMBEDDED, Server, Token


@pytest.fixture(scope="session")
def running_upstream() -> Iterator[MockOpenAI]:
    with MockOpenAI() as mock:
        yield mock


@pytest.fixture
def upstream(running_upstream: MockOpenAI) -> MockOpenAI:
    """A mock of OpenAI that has seen no request yet."""
    running_upstream.reset()
    return running_upstream


@pytest.fixture(scope="session", params=[EMBEDDED, DEPLOYED])
def proxy(
    request: pytest.FixtureRequest, running_upstream: MockOpenAI, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The proxy in front of `upstream`, on each server in turn. Afterwards it must have left everything in order."""
    data_dir = tmp_path_factory.mktemp(request.param) / "data"
    with Server(request.param, data_dir, UPSTREAM_URL=running_upstream.url) as server:
        yield server
        assert server.leaks() == []
        ids = Counter(record["request_id"] for record in server.records())
        assert [request_id for request_id, count in ids.items() if count > 1] == []
        assert "Traceback" not in server.output()
        assert "llmproxy_requests_in_flight 0.0" in server.metrics()
    assert server.wait() == 0


@pytest.fixture
def token(proxy: Server) -> Token:
    """A token of a project of its own."""
    return proxy.issue_token()
