"""Fixtures of the conformance suite: the proxy in front of the recording upstream."""

import pytest

from tests.recorder import RecordingUpstream
from tests.servers import Server

pytest.register_assert_rewrite("tests.transparency.exchange")

from tests.transparency.exchange import Twice  # noqa: E402


@pytest.fixture(scope="session")
def recorded_token(proxy: Server, running_recorder: RecordingUpstream) -> str:
    """The token of a project whose upstream is the recording one."""
    return proxy.issue_token(proxy.create_project(base_url=running_recorder.url), rate_limit=100_000).secret


@pytest.fixture
def twice(proxy: Server, recorder: RecordingUpstream, recorded_token: str) -> Twice:
    """Exchanges with the recording upstream, which has seen none yet."""
    return Twice(recorder, proxy.url, recorded_token)
