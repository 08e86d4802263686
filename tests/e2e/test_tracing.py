"""Traces of the running proxy, as a collector gets them over OTLP."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.http_by_hand import HandClient, call
from tests.post_server import PostHandler, PostServer
from tests.servers import DEPLOYED, Server, Token, wait_for
from tests.upstream import ScriptedUpstream, answering_json

CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "planted prompt"}]}'
STREAM = CHAT[:-1] + b', "stream": true, "stream_options": {"include_usage": true}}'
JSON = ("Content-Type", "application/json")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{PARENT}-01")
TRACESTATE = ("tracestate", "vendor=value")


class Collector:
    """Keeps the spans that are sent to it, and the headers that came with them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self._server = PostServer(self._take)
        self.url = self._server.url
        self.close = self._server.close

    def _take(self, handler: PostHandler, body: bytes) -> None:
        assert handler.path == "/v1/traces"
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        for part in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services.add(attributes(part.resource)["service.name"])
            self.spans += [span for scope in part.scope_spans for span in scope.spans]
        handler.answer(200)

    def span_of(self, request_id: str) -> Span:
        """The one span of a request, as soon as it has come."""

        def found() -> list[Span]:
            return [span for span in self.spans if attributes(span)["llmproxy.request_id"] == request_id]

        (span,) = wait_for(found, otherwise=lambda: self.spans)
        return span


def attributes(holder: Any) -> dict[str, Any]:
    """By name, each with its value."""
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in holder.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def traced(running_upstream, collector, tmp_path_factory) -> Iterator[Server]:
    key_file = tmp_path_factory.mktemp("collector") / "headers"
    key_file.write_text("x-collector-key=planted-collector-key\n")
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS_FILE": str(key_file),
        "OTEL_SERVICE_NAME": "proxy of the tests",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    data_dir = tmp_path_factory.mktemp("traced") / "data"
    with Server(DEPLOYED, data_dir, UPSTREAM_URL=running_upstream.url, **settings) as server:
        server.secrets |= {"planted-collector-key", "planted prompt"}
        yield server
        assert server.leaks() == []
    assert "Traceback" not in server.output()


@pytest.fixture
def token(traced: Server) -> Token:
    return traced.issue_token()


def test_a_call_is_one_span_with_what_gen_ai_wants_to_know(traced, collector, upstream, token):
    answer = call(traced.url, "POST", "/v1/chat/completions", token.bearer, JSON, body=CHAT)
    span = collector.span_of(answer["x-proxy-request-id"])

    told = attributes(span)
    assert (span.name, span.kind) == ("chat", Span.SPAN_KIND_SERVER)
    assert (span.parent_span_id, span.status.code) == (b"", Status.STATUS_CODE_UNSET)
    assert told["gen_ai.operation.name"] == "chat" and told["gen_ai.provider.name"] == "openai"
    assert told["gen_ai.request.model"] == "gpt-4o-mini" and told["gen_ai.response.model"] == answer.json["model"]
    usage = answer.json["usage"]
    assert told["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert (told["http.request.method"], told["http.response.status_code"]) == ("POST", 200)
    assert told["url.path"] == "/v1/chat/completions" and "error.type" not in told
    assert token.secret not in str(span) and "planted prompt" not in str(span)
    assert collector.services == {"proxy of the tests"}
    assert collector.headers[-1]["x-collector-key"] == "planted-collector-key"


def test_a_span_lasts_until_the_last_byte_of_a_stream(traced, collector, upstream, token):
    gate = str(uuid.uuid4())
    with HandClient(traced.url) as client:
        headers = (token.bearer, JSON, ("x-mock-gate", gate))
        client.send_request("POST", "/v1/chat/completions", *headers, body=STREAM)
        answer = client.read_head()
        client.read_chunk(answer)
        went_on_at = time.time_ns()
        upstream.release(gate, count=100)
        client.read_rest(answer)
    record = traced.record_of(answer["x-proxy-request-id"])
    span = collector.span_of(answer["x-proxy-request-id"])

    assert span.start_time_unix_nano < went_on_at < span.end_time_unix_nano
    assert attributes(span)["gen_ai.usage.output_tokens"] == record["metadata"]["completion_tokens"]
    assert attributes(span)["llmproxy.stream"] is True


def test_a_callers_trace_goes_on_and_the_upstream_gets_our_span_as_its_parent(traced, collector, upstream, token):
    answer = call(traced.url, "GET", "/v1/models", token.bearer, TRACEPARENT, TRACESTATE)
    span = collector.span_of(answer["x-proxy-request-id"])

    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    sent = [pair for pair in upstream.last_request()["headers"] if pair[0].lower().startswith("trace")]
    assert sorted(map(tuple, sent)) == [
        ("traceparent", f"00-{TRACE}-{span.span_id.hex()}-01"),
        ("tracestate", "vendor=value"),
    ]
    assert span.name == "GET /v1/models"


def test_a_caller_who_does_not_sample_hides_no_call(traced, collector, upstream, token):
    unsampled = ("traceparent", f"00-{'1' * 32}-{PARENT}-00")
    answer = call(traced.url, "GET", "/v1/models", token.bearer, unsampled, TRACESTATE)
    span = collector.span_of(answer["x-proxy-request-id"])

    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("1" * 32, PARENT)
    sent = dict(upstream.last_request()["headers"])
    assert sent["traceparent"] == f"00-{'1' * 32}-{span.span_id.hex()}-01" and sent["tracestate"] == "vendor=value"


@pytest.mark.parametrize(("share", "sampled"), [("0", 0), ("1", 20)])
def test_what_share_of_calls_is_traced_is_the_operators_to_say_and_not_their_callers(
    upstream, collector, tmp_path, share, sampled
):
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": share,
    }
    # A ratio is of the trace ids, of which these are the highest and the lowest.
    parents = [f"00-{'f' * 32}-{PARENT}-01", f"00-{'0' * 31}1-{PARENT}-00"]
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, **settings) as server:
        token = server.issue_token()
        answers = [
            call(server.url, "GET", "/v1/models", token.bearer, ("traceparent", parents[number % 2]))
            for number in range(20)
        ]
        server.terminate()
        assert server.wait() == 0

    told = {attributes(span)["llmproxy.request_id"] for span in collector.spans}
    assert len(told & {answer["x-proxy-request-id"] for answer in answers}) == sampled


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("X" * 20, "/v1/models", "HTTP /v1/models"),
        ("GET", "/v1/" + "x" * 2000, "GET /v1/other"),
        ("POST", "/v1/chat/completions", "chat"),
    ],
)
def test_a_spans_name_and_length_are_not_its_callers_to_choose(
    traced, collector, upstream, token, method, path, name
):
    body = CHAT.replace(b"gpt-4o-mini", b"y" * 100_000)
    answer = call(traced.url, method, path, token.bearer, JSON, body=body)
    span = collector.span_of(answer["x-proxy-request-id"])

    assert span.name == name
    assert len(str(span)) < 5000


@pytest.mark.parametrize("sent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "00-" + "x" * 10_00])
def test_a_broken_traceparent_begins_a_new_trace(traced, collector, upstream, token, sent):
    answer = call(traced.url, "GET", "/v1/models", token.bearer, ("traceparent", sent))

    assert answer.status == 200
    assert collector.span_of(answer["x-proxy-request-id"]).parent_span_id == b""


def test_what_is_no_tracestate_has_no_line_in_the_log(traced, collector, upstream, token):
    answer = call(traced.url, "GET", "/v1/models", token.bearer, TRACEPARENT, ("tracestate", "no-such-state " * 500))

    assert answer.status == 200
    assert collector.span_of(answer["x-proxy-request-id"]).parent_span_id.hex() == PARENT
    assert "no-such-state" not in traced.output()


def test_a_refusal_and_a_failure_are_told_apart(traced, collector, upstream, token):
    refused = call(traced.url, "GET", "/v1/models", ("Authorization", f"Bearer {uuid.uuid4()}"))
    failed = call(traced.url, "GET", "/v1/models", token.bearer, ("x-mock-drop", "1"))

    span = collector.span_of(refused["x-proxy-request-id"])
    assert (span.status.code, attributes(span)["error.type"]) == (Status.STATUS_CODE_UNSET, "invalid_api_key")
    span = collector.span_of(failed["x-proxy-request-id"])
    assert (span.status.code, attributes(span)["error.type"]) == (Status.STATUS_CODE_ERROR, "upstream_unreachable")


def test_what_fails_inside_a_good_response_failed(traced, collector):
    answer = b'{"error": {"message": "x", "type": "server_error", "code": "model_overloaded"}}'
    with ScriptedUpstream(answering_json(answer)) as upstream:
        token = traced.issue_token(traced.create_project(base_url=upstream.url))
        failed = call(traced.url, "POST", "/v1/chat/completions", token.bearer, JSON, body=CHAT)

    span = collector.span_of(failed["x-proxy-request-id"])
    assert (span.status.code, attributes(span)["error.type"]) == (Status.STATUS_CODE_ERROR, "model_overloaded")


def test_reading_uses_nothing(traced, collector):
    answer = b'{"id":"resp_1","object":"response","background":false,"usage":{"input_tokens":20,"output_tokens":9}}'
    with ScriptedUpstream(answering_json(answer)) as upstream:
        token = traced.issue_token(traced.create_project(base_url=upstream.url))
        read = call(traced.url, "GET", "/v1/responses/resp_1", token.bearer)

    assert not [name for name in attributes(collector.span_of(read["x-proxy-request-id"])) if "usage" in name]


def test_a_client_that_leaves_ends_its_span(traced, collector, upstream, token):
    with HandClient(traced.url) as client:
        client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-gate", "shut"), body=STREAM)
        answer = client.read_head()
        client.read_chunk(answer)

    span = collector.span_of(answer["x-proxy-request-id"])
    assert attributes(span)["error.type"] == "client_closed"


def test_spans_that_are_left_are_sent_at_the_end(upstream, collector, tmp_path):
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, **settings) as server:
        answer = call(server.url, "GET", "/v1/models", server.issue_token().bearer)
        server.terminate()
        assert server.wait() == 0

    assert collector.span_of(answer["x-proxy-request-id"])


def test_a_collector_that_is_not_there_costs_nobody_a_call(upstream, tmp_path):
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "10"}
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, **settings) as server:
        token = server.issue_token()
        assert [call(server.url, "GET", "/v1/models", token.bearer).status for _ in range(5)] == [200] * 5
        server.terminate()
        assert server.wait() == 0
    # Once a minute, and not by the SDK, which has a line for each try.
    assert "WARNING llmproxy.telemetry.outages: traces: " in server.output()
    assert "opentelemetry." not in server.output()


def test_an_endpoint_without_the_extra_stops_the_start_and_says_what_to_install(collector, tmp_path):
    # As it is where the extra was not installed: the name leads nowhere.
    (tmp_path / "without" / "opentelemetry").mkdir(parents=True)
    (tmp_path / "without" / "opentelemetry" / "__init__.py").write_text("")
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PYTHONPATH": str(tmp_path / "without")}
    server = Server(DEPLOYED, tmp_path / "data", **settings)
    server.start()

    assert server.wait() != 0
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: needs OpenTelemetry: pip install -r requirements-otel.txt" in server.output()


def test_while_tracing_is_off_a_callers_trace_passes_as_it_came(proxy, upstream):
    token = proxy.issue_token()
    call(proxy.url, "GET", "/v1/models", token.bearer, TRACEPARENT, TRACESTATE)

    sent = [tuple(pair) for pair in upstream.last_request()["headers"] if pair[0].lower().startswith("trace")]
    assert sent == [TRACEPARENT, TRACESTATE]
