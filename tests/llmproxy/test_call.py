import io
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from llmproxy.admission import Grant
from llmproxy.api_log.record import CallRecord
from llmproxy.call import Call, Part, Phase, WrongOrder
from llmproxy.client.guard import CallGuard
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
from llmproxy.limits.prices import Prices, read_sheet
from llmproxy.live_calls import LiveCalls
from llmproxy.observe.facts import Facts
from llmproxy.observe.usage import UsageObserver, observe

CUTS: list[Callable[[], ProxyError | None]] = [
    lambda: None, ClientGone, UpstreamTimeout, UpstreamUnreachable, TokenExpired, AuthUnavailable, ProxyError,
    lambda: RateLimited(limit=1, reset_in_s=1),
]  # fmt: skip
PRICES = Prices(read_sheet((Path(__file__).resolve().parents[2] / "prices" / "openai.json").read_bytes()))
GRANT = Grant("token-id", "project-id", "sk-planted", None, "as-sent", "demo")


class Log:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []
        self.refused: list[str] = []

    def write(self, record: CallRecord) -> bool:
        self.records.append(record)
        return True

    def write_refusal(self, record: CallRecord) -> None:
        self.refused.append(record.request_id)
        self.records.append(record)


def arrived(log: Log, endpoint: str = "/v1/x", *, live: LiveCalls | None = None, **more: Any) -> Call:
    """A call that has just arrived, and whose client nobody sees."""
    return Call("POST", endpoint, log=log, live=LiveCalls() if live is None else live, guard=CallGuard(None), **more)


def responding(log: Log, status: int, observer: UsageObserver, endpoint: str = "/v1/x") -> Call:
    """A call whose response has begun."""
    call = arrived(log, endpoint)
    call.admitted(GRANT)
    call.sent_up()
    call.head_came(status, "req_1")
    call.head_went(status, observer)
    return call


def empty_body() -> RequestBody:
    return RequestBody(io.BytesIO(), length=0, max_bytes=0)


def observer(body: bytes = b"", *, status: int = 200) -> UsageObserver:
    """Of an answer that has ended."""
    made = observe("/v1/chat/completions", status=status, content_type="application/json", content_encoding=None)
    made.feed(body)
    made.finish()
    return made


def billed(
    *, status: int = 200, body: bytes = b"{}", asked: bytes = b'{"model": "asked"}', **more: Any
) -> CallRecord:
    """The record of a call that asked and was answered so, with prices."""
    log = Log()
    call = arrived(log, "/v1/chat/completions", prices=PRICES, **more)
    request = RequestBody(io.BytesIO(asked), length=len(asked), max_bytes=len(asked))
    call.reads(request)
    call.admitted(GRANT)
    request.hold_if_small()
    call.sent_up()
    call.head_came(status, None)
    call.head_went(status, observer(body, status=status))
    call.end(None, bytes_out=0)
    [record] = log.records
    return record


def test_a_call_is_priced_by_what_it_told() -> None:
    record = billed(body=b'{"model": "gpt-5", "service_tier": "flex", "usage": {"prompt_tokens": 1000000}}')

    assert (record.cost, record.cost_source, record.price_date) == (625_000, "reported", PRICES.date)
    assert (record.service_tier, record.requested_model) == ("flex", None)


def test_the_model_of_the_request_counts_where_the_response_names_none() -> None:
    record = billed(body=b'{"usage": {"prompt_tokens": 1000000}}', asked=b'{"model": "gpt-5"}')

    assert (record.cost, record.requested_model, record.metadata) == (1_250_000, "gpt-5", {"prompt_tokens": 10**6})


def test_a_call_that_failed_costs_nothing_and_tells_the_model_that_it_asked_for() -> None:
    record = billed(status=404, body=b'{"error": {"code": "model_not_found"}}', asked=b'{"model": "gpt-9"}')

    assert (record.cost, record.cost_source, record.requested_model) == (0, "none", "gpt-9")


def test_the_end_of_a_call_that_was_never_sent_up_costs_nothing() -> None:
    log = Log()
    call = arrived(log, prices=PRICES)
    call.admitted(GRANT)
    call.end(UpstreamUnreachable(), bytes_out=0)

    assert (log.records[0].cost, log.records[0].cost_source) == (0, "none")


@pytest.mark.parametrize(("is_read", "model"), [(True, "gpt-5"), (False, None)])
def test_a_refused_call_tells_the_model_where_its_body_was_read_anyway(is_read: bool, model: str | None) -> None:
    log = Log()
    call = arrived(log, prices=PRICES)
    request = RequestBody(io.BytesIO(b'{"model": "gpt-5"}'), length=18, max_bytes=18)
    call.reads(request)
    if is_read:
        request.hold_if_small()
    call.end(TokenExpired(), bytes_out=0)

    [record] = log.records
    assert (record.cost, record.requested_model, request.bytes_read) == (0, model, 18 * is_read)


def test_nobody_knows_what_a_call_cost_that_the_upstream_did_not_answer() -> None:
    log = Log()
    call = arrived(log, "/v1/images/generations", prices=PRICES)
    request = RequestBody(io.BytesIO(b'{"model": "gpt-image-1"}'), length=24, max_bytes=24)
    call.reads(request)
    call.admitted(GRANT)
    request.hold_if_small()
    call.sent_up()
    call.end(UpstreamTimeout(), bytes_out=0)

    [record] = log.records
    assert (record.cost, record.cost_source, record.requested_model) == (None, "absent", "gpt-image-1")


def session(*told: dict[str, Any], prices: Prices | None = PRICES) -> list[CallRecord]:
    """The records of a WebSocket whose responses told so."""
    log = Log()
    call = Call(
        "GET", "/v1/realtime", log=log, live=LiveCalls(), guard=CallGuard(None), prices=prices, asks_for_session=True
    )
    call.admitted(GRANT)
    call.sent_up()
    call.head_came(101, None)
    call.head_went(101, observer())
    for number, document in enumerate(told, 1):
        facts = Facts()
        facts.take(document)
        part = Part(number, time.time(), time.perf_counter(), None)
        call.response_ended(part, facts, call.bill_response(facts))
    call.end(None, bytes_out=0)
    return log.records


def test_the_responses_of_a_websocket_are_billed_one_by_one_and_itself_costs_nothing() -> None:
    # Together they would be above the line from which all of it costs twice as much.
    half = {"model": "gpt-5.4", "usage": {"input_tokens": 200_000}}
    *responses, itself = session(half, half, half | {"service_tier": "flex"})

    assert [(one.cost, one.cost_source, one.part) for one in responses] == [
        (500_000, "reported", 1),
        (500_000, "reported", 2),
        (250_000, "reported", 3),
    ]
    assert {one.request_id for one in responses} == {f"{itself.request_id}-{number}" for number in (1, 2, 3)}
    assert (itself.cost, itself.cost_source, itself.usage_source, itself.part) == (0, "none", "absent", None)


def test_a_websockets_response_without_a_price_is_unpriced() -> None:
    priced, unpriced, _ = session(*({"model": model, "usage": {"input_tokens": 5}} for model in ("gpt-5", "x")))

    assert (priced.cost_source, unpriced.cost, unpriced.cost_source) == ("reported", None, "unpriced")


def test_what_a_websockets_response_cost_that_told_nothing_is_unknown_unless_it_failed() -> None:
    silent, failed, _ = session({"model": "gpt-5"}, {"model": "gpt-5", "error": {"code": "boom"}})

    assert (silent.cost_source, failed.cost_source, failed.failed_inside) == ("absent", "none", True)


def test_a_websocket_without_prices_has_no_cost() -> None:
    records = session({"model": "gpt-5", "usage": {"input_tokens": 5}}, prices=None)

    assert {record.cost_source for record in records} == {None}


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


def test_a_call_that_went_through_leaves_its_facts() -> None:
    log = Log()
    call = arrived(log, "/v1/chat/completions")
    body = RequestBody(io.BytesIO(b"abc"), length=3, max_bytes=3)
    call.reads(body)
    call.admitted(GRANT)
    body.hold_if_small()
    call.sent_up()
    call.head_came(201, "req_1")
    call.head_went(201, observer(b'{"model": "m", "usage": {"prompt_tokens": 2}}'))
    call.first_byte_came()
    call.end(None, bytes_out=7)

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
    arrived(log, "/v1/models").end(TokenExpired(), bytes_out=90)

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


def test_only_what_nobody_was_admitted_for_may_be_counted_with_others() -> None:
    log = Log()
    unknown, admitted = arrived(log), arrived(log)
    admitted.admitted(GRANT)
    for call in (unknown, admitted):
        call.end(TokenRevoked(), bytes_out=0)

    assert log.refused == [unknown.request_id]
    assert [record.request_id for record in log.records] == [unknown.request_id, admitted.request_id]


def test_a_refusal_says_whose_call_it_was_where_admission_knew() -> None:
    log, reason = Log(), TokenExpired()
    reason.token_id, reason.project_id = "an-expired-token", "its-project"
    arrived(log).end(reason, bytes_out=90)

    assert (log.records[0].token_id, log.records[0].project_id) == ("an-expired-token", "its-project")


def test_what_ends_an_admitted_call_does_not_change_whose_it_is() -> None:
    log = Log()
    call = arrived(log)
    call.admitted(GRANT)
    call.end(AuthUnavailable(), bytes_out=90)

    assert (log.records[0].token_id, log.records[0].project_id) == ("token-id", "project-id")


def test_a_client_that_left_is_a_499_whatever_the_answer_was() -> None:
    log = Log()
    responding(log, 200, observer()).end(ClientGone(), bytes_out=0)

    assert (log.records[0].status_code, log.records[0].outcome) == (499, "client_closed")


def test_an_answer_cut_off_keeps_the_status_that_the_client_saw() -> None:
    log = Log()
    responding(log, 200, observer()).end(UpstreamUnreachable(), bytes_out=0)

    assert (log.records[0].status_code, log.records[0].outcome) == (200, "upstream_failed")


def test_what_the_upstream_said_of_an_error_goes_before_our_words() -> None:
    log = Log()
    said = observer(b'{"error": {"code": "context_length_exceeded", "type": "invalid_request_error"}}', status=400)
    responding(log, 400, said).end(None, bytes_out=0)

    assert log.records[0].error == {"code": "context_length_exceeded", "type": "invalid_request_error"}


def test_what_the_proxy_decided_goes_before_what_the_upstream_said() -> None:
    log = Log()
    said = observer(b'{"error": {"code": "server_error", "type": "server_error"}}')
    responding(log, 200, said).end(TokenRevoked(), bytes_out=0)

    assert log.records[0].error == {"code": "token_revoked", "type": "invalid_request_error"}


def test_a_call_is_live_from_its_arrival_to_its_end() -> None:
    live = LiveCalls()
    call = arrived(Log(), live=live)
    assert (list(live), call.token_id) == ([call], None)
    call.admitted(GRANT)
    assert (list(live), call.token_id) == ([call], "token-id")

    call.end(ClientGone(), bytes_out=0)
    assert list(live) == []


def test_a_call_that_asks_for_a_websocket_is_one_until_the_upstream_says_otherwise() -> None:
    switched, refused = (arrived(Log(), asks_for_session=True) for _ in range(2))
    for call, status in ((switched, 101), (refused, 404)):
        call.admitted(GRANT)
        call.sent_up()
        call.head_came(status, None)
        assert call.is_session
        call.head_went(status, observer())

    assert (switched.is_session, refused.is_session) == (True, False)


def test_a_stream_is_known_when_its_head_went() -> None:
    of_events = observe("/v1/x", status=200, content_type="text/event-stream", content_encoding=None)

    assert responding(Log(), 200, of_events).is_stream
    assert not responding(Log(), 200, observer()).is_stream
    assert not arrived(Log()).is_stream


def test_a_cut_goes_to_the_guard_until_another_takes_over() -> None:
    call, reasons = arrived(Log(), asks_for_session=True), []
    call.admitted(GRANT)
    call.sent_up()
    call.head_came(101, None)
    call.head_went(101, observer(), cut=reasons.append)
    call.cut(reason := TokenRevoked())
    assert (reasons, call.guard.ended_by) == ([reason], None)

    other = responding(Log(), 200, observer())
    other.cut(reason)
    assert other.guard.ended_by is reason
    other.guard.stop()  # this greenlet goes on


# The order of phases

STEPS: dict[str, Callable[[Call], object]] = {
    "body": lambda call: call.reads(empty_body()),
    "admitted": lambda call: call.admitted(GRANT),
    "sent up": lambda call: call.sent_up(),
    "head came": lambda call: call.head_came(200, None),
    "head went": lambda call: call.head_went(200, observer()),
    "first byte": lambda call: call.first_byte_came(),
    "end": lambda call: call.end(ClientGone(), bytes_out=0),
    "whole": lambda call: call.end(None, bytes_out=0),
}
PHASES = ["admitted", "sent up", "head came", "head went"]
# By how many of the phases a call has been through: what it may be told next.
NEXT = [
    {"body", "admitted", "end"}, {"sent up", "end"}, {"head came", "end"}, {"head went", "end"},
    {"first byte", "end", "whole"},
]  # fmt: skip


def after(phases: int, log: Log) -> Call:
    call = arrived(log)
    for phase in PHASES[:phases]:
        STEPS[phase](call)
    return call


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("phases", range(len(PHASES) + 1), ids=["arrived", *PHASES])
def test_a_call_takes_only_what_comes_next(phases: int, step: str) -> None:
    log = Log()
    call = after(phases, log)
    if step in NEXT[phases]:
        STEPS[step](call)
    else:
        with pytest.raises(WrongOrder, match=Phase(phases).name):
            STEPS[step](call)

    assert len(log.records) == (step in ("end", "whole") and step in NEXT[phases])


@pytest.mark.parametrize("step", STEPS)
def test_a_call_that_has_ended_takes_nothing(step: str) -> None:
    log = Log()
    call = after(4, log)
    STEPS["end"](call)
    with pytest.raises(WrongOrder):
        STEPS[step](call)

    assert [record.outcome for record in log.records] == ["client_closed"]


def test_a_first_byte_comes_once() -> None:
    call = after(4, Log())
    call.first_byte_came()

    with pytest.raises(WrongOrder):
        call.first_byte_came()


def test_nobody_outside_adds_to_what_a_call_knows() -> None:
    with pytest.raises(AttributeError):
        arrived(Log()).bytes_out = 7  # type: ignore[attr-defined]


@given(
    st.lists(st.sampled_from(sorted(STEPS)), max_size=12),
    st.sampled_from(CUTS),
    st.binary(max_size=30)
    | st.sampled_from([b'{"usage": {"prompt_tokens": -1}}', b'{"usage": {"prompt_tokens": "x"}}']),
)
def test_any_course_of_a_call_leaves_one_record(
    course: list[str], cut: Callable[[], ProxyError | None], body: bytes
) -> None:
    """Whatever it is told in whatever order, and however it ends after that."""
    log, live = Log(), LiveCalls()
    call = arrived(log, live=live)
    steps = STEPS | {
        "head went": lambda call: call.head_went(200, observer(body)),
        "end": lambda call: call.end(cut(), bytes_out=0),
    }
    ends = {"end": cut(), "whole": None}
    told: list[ProxyError | None] = []
    for step in course:
        try:
            steps[step](call)
        except WrongOrder:
            continue
        told += [ends[step]] if step in ends else []
    if not told:
        told.append(ClientGone())
        call.end(told[0], bytes_out=0)

    [record] = log.records
    assert record.to_line().endswith(b"\n")
    [reason] = told
    assert record.outcome == (reason.outcome if reason else "complete")
    assert list(live) == []


def test_every_call_has_an_id_of_its_own_that_is_a_uuid_and_tells_its_millisecond() -> None:
    before = int(time.time() * 1000)
    ids = [arrived(Log()).request_id for _ in range(200)]

    assert len(set(ids)) == 200
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)
        assert before <= parsed.int >> 80 <= time.time() * 1000


def test_overhead_is_what_neither_the_upstream_nor_the_clients_body_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    before = counted("llmproxy_overhead_seconds_sum")

    def takes(seconds: float) -> None:
        now[0] += seconds

    call, body = arrived(Log()), empty_body()
    call.reads(body)
    takes(0.25)  # to admit
    call.admitted(GRANT)
    body.waited_s = 8.0
    takes(8.0)
    call.sent_up()
    takes(32.0)
    call.head_came(200, None)
    takes(0.5)  # to look at the answer's head
    call.head_went(200, observer())
    takes(64.0)
    call.end(None, bytes_out=0)

    assert counted("llmproxy_overhead_seconds_sum") - before == pytest.approx(0.75)
