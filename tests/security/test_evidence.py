"""Attacks on the evidence, by anybody: what the call log, its neighbours and the sums must survive."""

from collections.abc import Iterator

import pytest

from tests.exposition import total
from tests.http_by_hand import HandClient
from tests.receiver import Receiver, receiver  # noqa: F401
from tests.servers import Server, wait_for


@pytest.fixture
def shipping(server_kind, tmp_path, upstream, receiver: Receiver) -> Iterator[Server]:  # noqa: F811
    """A server with a small log, whose receiver takes no record at all."""
    receiver.status = 400
    settings = {
        "UPSTREAM_URL": upstream.url,
        "LOGGING_URL": receiver.url,
        "LOG_MAX_FILE_BYTES": "50000",
        "LOG_MAX_TOTAL_BYTES": "200000",
    }
    with Server(server_kind, tmp_path / "data", **settings) as server:
        yield server


def test_records_that_the_receiver_refuses_fill_a_tenth_of_the_cap_at_most(shipping):
    token = shipping.issue_token()
    with HandClient(shipping.url) as client:
        for _ in range(150):
            client.call("GET", "/v1/models", token.bearer)

    wait_for(lambda: "older dead letters are deleted" in shipping.output(), timeout_s=20, otherwise=shipping.output)
    letters = list(shipping.data_dir.glob("dead_letters*.jsonl"))
    lines = sum(path.read_bytes().count(b"\n") for path in letters)
    assert sum(path.stat().st_size for path in letters) <= 20_000
    assert 0 < lines < 150
    wait_for(lambda: total(shipping.metrics(), "llmproxy_log_dead_letters") == lines)


def test_a_torn_line_among_the_losses_leaves_the_metrics_whole(shipping):
    (shipping.data_dir / "dropped.jsonl").write_bytes(
        b'{"at":"2026-11-23T10:15:30Z","bytes":700,"records":7}\n{"at":"2026-11-2\n[1]\n'
        b'{"at":"2026-11-23T10:15:31Z","bytes":300,"records":3}\n{"at":"20'
    )

    assert total(shipping.metrics(), "llmproxy_log_dropped_records") == 10
