"""One record per request, whatever became of it, with what the specification promises in each field."""

import json
import os
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmproxy.api_log.file_lock import FileLock
from tests.e2e.test_commands import flask
from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.servers import DEPLOYED, Server, on_both_servers, wait_for

pytestmark = on_both_servers
CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "planted prompt"}]}'
STREAM = CHAT[:-1] + b', "stream": true}'
STREAM_WITH_USAGE = STREAM[:-1] + b', "stream_options": {"include_usage": true}}'
JSON = ("Content-Type", "application/json")
FIELDS = [
    "timestamp", "request_id", "token", "project_id", "endpoint", "method", "status_code", "duration_ms", "metadata",
    "outcome", "stream", "ttft_ms", "upstream_status", "upstream_request_id", "bytes_in", "bytes_out",
    "usage_source", "error", "cost_usd", "cost_source", "price_date", "service_tier", "requested_model",
    "client_address",
]  # fmt: skip


@pytest.fixture
def recorded(proxy, upstream, token):
    """Makes a call; its answer and the one record that it left."""

    def make(method, target, *headers, body=None):
        answer = call(proxy.url, method, target, token.bearer, *headers, body=body)
        (record,) = proxy.wait_for_records(1, token)
        assert record["request_id"] == answer["x-proxy-request-id"]
        return answer, record

    return make


def test_a_call_leaves_everything_that_a_record_has(recorded, token):
    before = datetime.now(UTC)
    answer, record = recorded("POST", "/v1/chat/completions?secret=in-a-query", JSON, body=CHAT)

    assert list(record) == FIELDS
    assert before.timestamp() - 1 < datetime.fromisoformat(record["timestamp"]).timestamp()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])
    assert str(uuid.UUID(record["request_id"])) == record["request_id"]
    assert (record["token"], record["project_id"]) == (token.id, token.project_id)
    assert (record["method"], record["endpoint"]) == ("POST", "/v1/chat/completions")
    assert (record["status_code"], record["upstream_status"], record["outcome"]) == (200, 200, "complete")
    assert (record["bytes_in"], record["bytes_out"]) == (len(CHAT), len(answer.body))
    assert record["upstream_request_id"] == answer["x-request-id"]
    assert 0 < record["ttft_ms"] <= record["duration_ms"]
    assert (record["stream"], record["usage_source"], record["error"]) == (False, "reported", None)


def test_usage_model_and_created_are_those_of_the_answer(recorded):
    answer, record = recorded("POST", "/v1/chat/completions", JSON, body=CHAT)

    told = answer.json
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert record["metadata"][name] == told["usage"][name] > 0
    assert (record["metadata"]["model"], record["metadata"]["created"]) == (told["model"], told["created"])


def test_a_stream_reports_usage_where_its_caller_asked(recorded):
    answer, record = recorded("POST", "/v1/chat/completions", JSON, body=STREAM_WITH_USAGE)

    usage = json.loads(answer.body.split(b"\n\n")[-3].removeprefix(b"data: "))["usage"]
    assert record["metadata"]["total_tokens"] == usage["total_tokens"] > 0
    assert (record["stream"], record["usage_source"]) == (True, "reported")


def test_a_stream_whose_caller_did_not_ask_has_no_usage_and_no_zeros(recorded):
    _, record = recorded("POST", "/v1/chat/completions", JSON, body=STREAM)

    assert (record["stream"], record["usage_source"]) == (True, "absent")
    assert not (record["metadata"] or {}).keys() & {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert record["metadata"]["model"].startswith("gpt-4o-mini")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_usage_is_read_from_a_compressed_answer(recorded, encoding):
    headers = (("Accept-Encoding", encoding), ("x-mock-encoding", encoding))
    _, record = recorded("POST", "/v1/chat/completions", JSON, *headers, body=CHAT)

    assert record["metadata"]["total_tokens"] > 0


def test_a_bare_list_tells_nothing_of_usage(recorded):
    _, record = recorded("GET", "/v1/models")

    assert (record["metadata"], record["usage_source"]) == (None, "absent")


@pytest.mark.parametrize(
    ("method", "target", "control", "status"),
    [
        ("HEAD", "/v1/models", "status: 200", 200),
        ("HEAD", "/v1/models", "framing: chunked", 200),
        ("DELETE", "/v1/files/file-1", "status: 204", 204),
        ("GET", "/v1/models", "status: 304", 304),
    ],
)
def test_an_answer_without_a_body_is_complete(recorded, method, target, control, status):
    name, _, value = control.partition(": ")
    _, record = recorded(method, target, (f"x-mock-{name}", value))

    assert (record["outcome"], record["status_code"], record["upstream_status"]) == ("complete", status, status)
    assert (record["bytes_out"], record["ttft_ms"], record["metadata"]) == (0, None, None)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_error_of_the_upstream_is_a_complete_call_with_its_code(recorded, status):
    answer, record = recorded("POST", "/v1/chat/completions", JSON, ("x-mock-status", str(status)), body=CHAT)

    assert (record["outcome"], record["status_code"], record["upstream_status"]) == ("complete", status, status)
    told = answer.json["error"]
    assert record["error"] == {"code": told["code"], "type": told["type"]}


def test_calls_on_one_connection_have_a_record_each(proxy, token):
    with HandClient(proxy.url) as client:
        answers = [client.call("GET", "/v1/models", token.bearer) for _ in range(5)]

    records = proxy.wait_for_records(5, token)
    assert [record["request_id"] for record in records] == [answer["x-proxy-request-id"] for answer in answers]


def test_nothing_of_a_prompt_or_an_answer_or_a_query_is_kept(proxy, token):
    for body in (CHAT, STREAM_WITH_USAGE):
        call(proxy.url, "POST", "/v1/chat/completions?planted=query", token.bearer, JSON, body=body)
    proxy.wait_for_records(2, token)

    kept = (proxy.data_dir / "api_logs.jsonl").read_text() + proxy.output()
    assert not [text for text in ("planted prompt", "planted=query", "wither,", " calls") if text in kept]


def test_no_file_of_the_data_directory_holds_a_secret_in_the_clear(proxy, token):
    call(proxy.url, "GET", "/v1/models", token.bearer)
    proxy.wait_for_records(1, token)

    for path in filter(Path.is_file, proxy.data_dir.rglob("*")):
        content = path.read_bytes()
        assert [secret for secret in proxy.secrets if secret.encode() in content] == [], path


# --- the files ---


def segments(server: Server) -> list[Path]:
    return list(server.data_dir.glob("api_logs*.jsonl"))


def test_a_log_rotated_under_two_workers_holds_every_record_once_and_is_summed_up(tmp_path):
    settings = {"WEB_CONCURRENCY": "2", "LOG_MAX_FILE_BYTES": "4096"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        ids: set[str] = set()
        for rotated in (1, 2, 3):
            ids |= {*server.leave_records(20)}
            wait_for(lambda rotated=rotated: len(segments(server)) > rotated)
        wait_for(lambda: server.manage("GET", "/usage")[1]["total"]["requests"] == 60)

        lines = [line for path in segments(server) for line in path.read_text().splitlines()]
        assert sorted(json.loads(line)["request_id"] for line in lines) == sorted(ids)


def size(path: Path) -> int:
    """Its bytes; none where it has gone meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_log_that_its_receiver_never_reads_stays_below_its_cap_and_says_what_went(tmp_path):
    settings = {
        "LOGGING_URL": "http://127.0.0.1:9",
        "LOG_MAX_FILE_BYTES": "4096",
        "LOG_MAX_TOTAL_BYTES": "20000",
    }
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:

        def dropped() -> float:
            server.leave_records(20)
            return total(server.metrics(), "llmproxy_log_dropped_records")

        wait_for(dropped, otherwise=server.output)
        # The cap is kept when the file is rotated, which is looked at once a second.
        wait_for(lambda: sum(map(size, segments(server))) < 20000)

        assert "shipper had not read" in server.output()
        assert "deleted unread: about 0 records" not in flask(server, "ledger", "status")


def add_half_a_line(log: Path) -> None:
    with log.open("ab") as file:
        file.write(b'{"timestamp":"2026-11-23T10:15:30.123Z","request_id":\n')


def change_the_last_line(log: Path) -> None:
    with log.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"x")


@pytest.mark.parametrize(
    ("kind", "harm"), [("torn", add_half_a_line), ("changed", change_the_last_line), ("missing", Path.unlink)]
)
def test_what_is_wrong_with_the_log_is_counted(tmp_path, kind, harm):
    with Server(DEPLOYED, tmp_path / "data") as server:

        def found() -> float:
            return total(server.metrics(), "llmproxy_log_damage_total", reader="rollup", kind=kind)

        server.leave_records(3)
        wait_for(lambda: server.manage("GET", "/usage")[1]["total"]["requests"] == 3)
        assert "llmproxy_log_damage_total{" in server.metrics() and found() == 0
        # Held by the rollup while it reads; what it has open then it knows to its end.
        lock = FileLock(server.data_dir / "positions" / "rollup.lock")
        wait_for(lock.acquire)
        log = server.data_dir / "api_logs.jsonl"
        harm(log)
        # A writer notices within a tenth of a second that its file has gone.
        wait_for(lambda: server.leave_records(1) and log.exists() and log.stat().st_size)
        lock.release()

        wait_for(lambda: found() == 1, otherwise=server.output)
