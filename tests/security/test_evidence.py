"""Attacks on the evidence, by anybody: what the call log, its neighbours and the sums must survive."""

import time
import uuid
from collections.abc import Iterator

import pytest

from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.receiver import Receiver, receiver  # noqa: F401
from tests.records import append, record, refused
from tests.servers import DEPLOYED, Server, contents, on_both_servers, wait_for

LONG_PATH = "/v1/" + "x" * 8000


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

    wait_for(lambda: "older dead letters are deleted" in shipping.output(), otherwise=shipping.output)

    def letters() -> bytes:
        return b"".join(contents(shipping.data_dir, "dead_letters*.jsonl").values())

    assert len(letters()) <= 20_000
    wait_for(lambda: 0 < total(shipping.metrics(), "llmproxy_log_dead_letters") == letters().count(b"\n"))
    told = [line for line in shipping.output().splitlines() if "set aside in dead_letters.jsonl" in line]
    assert len([line for line in told if "more in" not in line]) == 1


def test_a_torn_line_among_the_losses_leaves_the_metrics_whole(shipping):
    (shipping.data_dir / "dropped.jsonl").write_bytes(
        b'{"at":"2026-11-23T10:15:30Z","bytes":700,"records":7}\n{"at":"2026-11-2\n[1]\n'
        b'{"at":"2026-11-23T10:15:31Z","bytes":300,"records":3}\n{"at":"20'
    )

    wait_for(lambda: total(shipping.metrics(), "llmproxy_log_dropped_records") == 10, otherwise=shipping.metrics)


# --- refusals ---


def flood(
    server: Server, count: int, *headers: tuple[str, str], target: str = LONG_PATH, method: str = "GET"
) -> None:
    """So many calls that are refused, on connections that last as long as the server lets them."""
    left = count
    while left:
        with HandClient(server.url) as client:
            while left:
                answer = client.call(method, target, *headers)
                assert answer.status >= 400
                left -= 1
                if answer.all("connection") == ["close"]:
                    break


def is_summed_up(server: Server, refusals: int) -> bool:
    total = server.manage("GET", "/usage")[1]["total"]
    return total["refusals"] == total["requests"] == refusals


def test_a_flood_without_a_token_leaves_a_line_a_second_and_is_counted_to_the_last_call(tmp_path):
    with Server(DEPLOYED, tmp_path / "data", WEB_CONCURRENCY="2") as server:
        began = time.monotonic()
        for _ in range(10):
            flood(server, 60, ("Authorization", f"Bearer {uuid.uuid4()}"))
        seconds = time.monotonic() - began
        wait_for(lambda: server.count_calls(status_code=401) == 600, otherwise=server.records)
        wait_for(lambda: is_summed_up(server, 600))

        # Of two workers, each has one line at once, one for each second, and one for what was left.
        assert len(server.records()) <= 2 * (seconds + 2)
        assert {len(record["endpoint"]) for record in server.records()} == {200}
        wait_for(lambda: total(server.metrics(), "llmproxy_requests_total", outcome="refused") == 600)
        assert total(server.metrics(), "llmproxy_refusals_total", code="invalid_api_key") == 600


@pytest.mark.parametrize(
    ("attack", "status"),
    [
        ({}, 401),
        ({"target": "/v1/%2e%2e/" + "x" * 7000}, 400),
        ({"method": "TRACE"}, 405),
    ],
)
@on_both_servers
def test_no_way_to_be_refused_without_a_token_has_more_than_a_line_a_second(proxy, attack, status):
    proxy.wait_for_refusals()
    before, lines = proxy.count_calls(status_code=status), lines_of(proxy, status)
    began = time.monotonic()
    flood(proxy, 100, **attack)

    proxy.wait_for_refusals()
    assert proxy.count_calls(status_code=status) == before + 100
    assert lines_of(proxy, status) - lines <= time.monotonic() - began + 2


def lines_of(server: Server, status: int) -> int:
    """How many lines tell of refusals with this status."""
    return sum((record["outcome"], record["status_code"]) == ("refused", status) for record in server.records())


@pytest.mark.parametrize("state", ["expired", "revoked", "used up", "of a project that is off"])
def test_what_a_known_token_is_refused_is_counted_for_it(proxy, upstream, state):
    token = proxy.issue_token(rate_limit=1)
    if state == "used up":
        assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 200
    elif state == "revoked":
        assert proxy.manage("DELETE", "/tokens", {"id": token.id})[0] == 204
    elif state == "expired":
        assert proxy.manage("PATCH", f"/tokens/{token.id}", {"expires_at": "2026-01-01T00:00:00Z"})[0] == 200
    else:
        assert proxy.manage("PATCH", f"/projects/{token.project_id}", {"is_active": False})[0] == 200
    began = time.monotonic()
    flood(proxy, 100, token.bearer)

    wait_for(lambda: proxy.count_calls(token=token.id, outcome="refused") == 100, otherwise=proxy.records)
    lines = [record for record in proxy.records(token) if record["outcome"] == "refused"]
    assert {record["project_id"] for record in lines} == {token.project_id}
    assert len(lines) <= time.monotonic() - began + 2


def test_what_was_counted_and_not_written_yet_is_written_at_a_stop(tmp_path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        flood(server, 50)
        server.terminate()
        assert server.wait() == 0

    assert server.count_calls(status_code=401) == 50


def test_files_of_refusals_go_before_older_ones_with_calls(shipping):
    paths = [shipping.data_dir / f"api_logs.2026112{day}T000000000000Z.jsonl" for day in (1, 2)]
    append(paths[0], [record() for _ in range(20)])
    append(paths[1], [refused("invalid_api_key", token=None, count=1000) for _ in range(250)])
    token = shipping.issue_token(rate_limit=10**6)

    with HandClient(shipping.url) as client:
        wait_for(lambda: client.call("GET", "/v1/models", token.bearer) and not paths[1].exists())
        assert paths[0].exists()
    wait_for(lambda: total(shipping.metrics(), "llmproxy_log_dropped_records") > 100_000)


@on_both_servers
def test_readers_are_known_before_the_first_call_is_answered(shipping):
    assert {path.stem for path in (shipping.data_dir / "positions").glob("*.json")} == {"rollup", "shipper"}
