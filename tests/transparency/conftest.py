"""Fixtures of the conformance suite: one recording upstream, and the proxy in front of it on both servers."""

from collections.abc import Iterator

import pytest

from tests.servers import Server

pytest.register_assert_rewrite("tests.transparency.exchange")

from tests.transparency.exchange import Twice  # noqa: E402
from tests.transparency.recorder import RecordingUpstream  # noqa: E402


@pytest.fixture(scope="session")
def recorder() -> Iterator[RecordingUpstream]:
    with RecordingUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def recorded_token(proxy: Server, recorder: RecordingUpstream) -> str:
    """The token of a project whose upstream is the recording one."""
    return proxy.issue_token(proxy.create_project(base_url=recorder.url), rate_limit=100_000).secret


@pytest.fixture
def twice(proxy: Server, recorder: RecordingUpstream, recorded_token: str) -> Twice:
    """Exchanges with the recording upstream, which has seen none yet."""
    recorder.forget()
    return Twice(recorder, proxy.url, recorded_token)
