import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from llmproxy.admission import Grant
from llmproxy.api_log.record import CallRecord
from llmproxy.call import Call
from llmproxy.client.request_body import RequestBody
from llmproxy.errors import (
    AuthUnavailable,
    ClientGone,
    ProxyError,
    RateLimited,
    TokenExpired,
    TokenRevoked,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from llmproxy.live_calls import LiveCalls
from llmproxy.observe.usage import UsageObserver, observe
from llmproxy.telemetry import metrics

CUTS: list[Callable[[], ProxyError | None]] = [
    lambda: None, ClientGone, UpstreamTimeout, UpstreamUnreachable, TokenExpired, AuthUnavailable, ProxyError,
    lambda: RateLimited(limit=1, reset_in_s=1),
]  # fmt: skip


GRANT = Grant("token-id", "project-id", "sk-planted", None, "as-sent")


class Log:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []

    def write(self, record: CallRecord) -> bool:
        self.records.append(record)
        return True


@pytest.fixture(autouse=True)
def none_left_under_way() -> Iterator[None]:
    metrics.calls_under_way = 0
    yield
    assert metrics.calls_under_way == 0


def began(log: Log, endpoint: str = "/v1/x", *, live: LiveCalls | None = None) -> Call:
    """A call that has just arrived, and that nobody cuts."""
    return Call("POST", endpoint, log, LiveCalls() if live is None else live, lambda reason: None)


def observer(body: bytes = b"", *, status: int = 200) -> UsageObserver:
    """Of an answer that has ended."""
    made = observe("/v1/chat/completions", status=status, content_type="application/json", content_encoding=None)
    made.feed(body)
    made.finish()
    return made


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def test_a_call_that_went_through_leaves_its_facts() -> None:
    log = Log()
    call = began(log, "/v1/chat/completions")
    call.granted(GRANT)
    call.body = RequestBody(io.BytesIO(b"abc"), length=3, max_bytes=3)
    call.body.hold_if_small()
    call.upstream_status, call.upstream_request_id, call.bytes_out = 201, "req_1", 7
    call.saw_first_byte()
    call.end(None, status=201, observer=observer(b'{"model": "m", "usage": {"prompt_tokens": 2}}'))

    [record] = log.records
    assert (record.token_id, record.project_id, record.status_code, record.outcome) == (
        "token-id", "project-id", 201, "complete",
    )  # fmt: skip
    assert (record.bytes_in, record.bytes_out, record.upstream_status, record.upstream_request_id) == (
        3,
        7,
        201,
        "req_1",
    )
    assert (record.metadata, record.usage_source, record.error) == (
        {"model": "m", "prompt_tokens": 2},
        "reported",
        None,
    )
    assert record.ttft_ms is not None
    assert 0 <= record.ttft_ms <= record.duration_ms
    assert "sk-planted" not in repr(record)


def test_a_call_that_was_refused_before_all_else_leaves_a_record_too() -> None:
    log = Log()
    began(log, "/v1/models").end(TokenExpired(), status=401)

    [record] = log.records
    assert (record.outcome, record.status_code) == ("refused", 401)
    assert record.error == {"code": "token_expired", "type": "invalid_request_error"}
    assert (record.token_id, record.metadata, record.ttft_ms, record.bytes_in, record.stream) == (
        None,
        None,
        None,
        0,
        False,
    )


def test_a_client_that_left_is_a_499_whatever_the_answer_was() -> None:
    log = Log()
    began(log).end(ClientGone(), status=200, observer=observer())

    assert (log.records[0].status_code, log.records[0].outcome) == (499, "client_closed")


def test_an_answer_cut_off_keeps_the_status_that_the_client_saw() -> None:
    log = Log()
    began(log).end(UpstreamUnreachable(), status=200, observer=observer())

    assert (log.records[0].status_code, log.records[0].outcome) == (200, "upstream_failed")


def test_what_the_upstream_said_of_an_error_goes_before_our_words() -> None:
    log = Log()
    said = observer(b'{"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}}', status=400)
    began(log).end(None, status=400, observer=said)

    assert log.records[0].error == {"code": "context_length_exceeded", "type": "invalid_request_error"}


def test_what_the_proxy_decided_goes_before_what_the_upstream_said() -> None:
    log = Log()
    said = observer(b'{"error": {"code": "server_error", "type": "server_error"}}')
    began(log).end(TokenRevoked(), status=200, observer=said)

    assert log.records[0].error == {"code": "token_revoked", "type": "invalid_request_error"}


def test_a_call_is_live_from_its_admission_to_its_end() -> None:
    live = LiveCalls()
    call = began(Log(), live=live)
    assert list(live) == []
    call.granted(GRANT)
    assert list(live) == [call]
    call.end(None, status=200)
    call.end(None, status=200)

    assert list(live) == []


def test_only_the_first_end_counts() -> None:
    log = Log()
    call = began(log)
    call.end(ClientGone(), status=200)
    call.end(None, status=200)

    assert [record.outcome for record in log.records] == ["client_closed"]


@given(
    st.lists(st.sampled_from(["granted", "body", "first byte", "end", "end with observer"]), max_size=8),
    st.sampled_from(CUTS),
    st.binary(max_size=30)
    | st.sampled_from([b'{"usage": {"prompt_tokens": -1}}', b'{"usage": {"prompt_tokens": "x"}}']),
)
def test_any_course_of_a_call_leaves_one_record(
    course: list[str], cut: Callable[[], ProxyError | None], body: bytes
) -> None:
    log = Log()
    call = began(log)
    steps: dict[str, Callable[[], Any]] = {
        "granted": lambda: call.granted(Grant("t", "p", "k", None, "as-sent")),
        "body": lambda: setattr(call, "body", RequestBody(io.BytesIO(), length=0, max_bytes=0)),
        "first byte": call.saw_first_byte,
        "end": lambda: call.end(cut(), status=200),
        "end with observer": lambda: call.end(cut(), status=200, observer=observer(body)),
    }
    for step in [*course, "end"]:
        steps[step]()

    [record] = log.records
    assert record.to_line().endswith(b"\n")
    reason = cut()
    assert record.outcome == (reason.outcome if reason else "complete")


def test_a_call_counts_as_under_way_until_it_ends() -> None:
    call = began(Log())

    assert metrics.calls_under_way == 1
    call.end(None, status=200)
    call.end(None, status=200)
    assert metrics.calls_under_way == 0


def test_overhead_is_what_neither_the_upstream_nor_the_clients_body_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    before = counted("llmproxy_overhead_seconds_sum")

    def takes(seconds: float) -> None:
        now[0] += seconds

    call = began(Log())
    call.body = RequestBody(io.BytesIO(b""), length=0, max_bytes=0)
    takes(0.25)  # to admit
    call.body.waited_s = 8.0
    takes(8.0)
    call.asks()
    takes(32.0)
    call.answered(200, None)
    takes(0.5)  # to look at the answer's head
    call.answers()
    takes(64.0)
    call.end(None, status=200)

    assert counted("llmproxy_overhead_seconds_sum") - before == pytest.approx(0.75)
