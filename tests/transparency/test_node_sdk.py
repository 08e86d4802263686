"""OpenAI's own client for Node, unmodified: through the proxy it is told what the upstream itself tells it."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.servers import ROOT, UPSTREAM_KEY, Token, wait_for

SCRIPT = ROOT / "tests" / "node" / "sdk.mjs"
SDK = SCRIPT.parent / "node_modules" / "openai"
pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(not SDK.exists(), reason="OpenAI's client for Node is not installed: make node-sdk"),
]
ERRORS = {
    400: "BadRequestError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "InternalServerError",
}


def told(url: str, key: str) -> dict[str, Any]:
    """What the client was told, by the name of the call."""
    command = ["node", str(SCRIPT), f"{url}/v1", key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def direct(running_upstream) -> dict[str, Any]:
    return told(running_upstream.url, UPSTREAM_KEY)


@pytest.fixture(scope="module")
def node_token(proxy) -> Token:
    return proxy.issue_token()


@pytest.fixture(scope="module")
def proxied(proxy, node_token, running_upstream) -> dict[str, Any]:
    return told(proxy.url, node_token.secret)


def test_every_call_tells_the_client_what_the_upstream_does(direct, proxied) -> None:
    assert proxied == direct


def test_errors_are_of_the_class_that_the_client_knows(proxied) -> None:
    assert {status: proxied[f"error {status}"][0] for status in ERRORS} == ERRORS
    assert proxied["wrong key"] == proxied["wrong key, large upload"] == ["AuthenticationError", 401]
    assert proxied["retried"] == "list"


def test_an_aborted_stream_leaves_one_record_of_a_client_that_left(proxy, node_token, proxied) -> None:
    def closed() -> list[dict[str, Any]]:
        return [record for record in proxy.records(node_token) if record["outcome"] == "client_closed"]

    assert [(record["status_code"], record["upstream_status"]) for record in wait_for(closed)] == [(499, 200)]
    assert proxied["abort"] == 2
