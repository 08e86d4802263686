"""
OpenTelemetry: one span for each call, from its arrival to its last byte. An extra, off unless it is started.

Made by hand: an instrumentation of Flask would end the span when the view returns, long before a stream's end. A
caller's `traceparent` is continued, and the upstream gets our span as its parent; while tracing is off, both headers
pass as they came. The names of attributes stand here alone, because those of gen_ai are still changing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from random import getrandbits
from typing import TYPE_CHECKING, Any, cast

import orjson
import requests

from llmproxy import __version__
from llmproxy.api_log.record import CallRecord
from llmproxy.egress import Egress
from llmproxy.endpoints import endpoint_class
from llmproxy.headers import Headers, with_header
from llmproxy.telemetry import outages

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
    from opentelemetry.trace import Tracer

PROVIDER = "openai"
OPERATIONS = {
    "chat": "chat",
    "responses": "chat",
    "realtime": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "images": "generate_content",
}
# The conventions have "HTTP" and "_OTHER" in place of any other.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
# A path or a model's name may have 8 KB and more.
MAX_TEXT = 256
FLUSH_S = 3.0

_tracer: Tracer | None = None


def start(endpoint: str, *, service_name: str, headers: str, egress: Egress) -> Callable[[], object]:
    """
    Trace the calls of this process. After the fork: a thread sends the spans.

    Args:
        endpoint: Of the collector's OTLP over HTTP, without `/v1/traces`.
        headers: For the collector, as OTEL_EXPORTER_OTLP_HEADERS has them.
        egress: The way there.

    Returns:
        What sends the spans that are left, for FLUSH_S at most.
    """
    global _tracer  # noqa: PLW0603
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.util.re import parse_env_headers

    resource = Resource.create({"service.name": service_name, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.sampler = cast("Sampler", _OwnSampling(provider.sampler))
    sent = parse_env_headers(headers, liberal=True)
    # Without proxies the environment says all there is to say, a session of the SDK's own included.
    session = _Session(egress.for_requests(endpoint)) if egress.has_proxies else None
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", headers=sent, session=session)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _keep_quiet()
    _tracer = provider.get_tracer("llm-proxy", __version__)
    return lambda: provider.force_flush(int(FLUSH_S * 1000))


def _keep_quiet() -> None:
    """
    Let the SDK have a line in the process's log once a minute, for each thing that it has to say.

    It has one for each try of a collector that is away, and for each `tracestate` that is none, with its text:
    whoever calls could fill the disk.
    """
    logging.getLogger("opentelemetry.trace.span").disabled = True
    sdk = logging.getLogger("opentelemetry")
    sdk.addHandler(_OnceAMinute(logging.WARNING))
    sdk.propagate = False


class _OnceAMinute(logging.Handler):
    """Tells as `outages` does; what is said with other numbers is the same."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, or count it."""
        outages.note(f"{record.name}: {record.msg}", f"traces: {record.getMessage()[: outages.MOST_TEXT]}")


class _OwnSampling:
    """
    Samples by the SDK's own settings, as if no call had a parent.

    By default the caller's `traceparent` decides, and at a rate its trace id would: whoever holds a token could hide
    calls by either, or have all of them kept.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self, parent_context: Context | None, _trace_id: int, name: str, *more: Any, **others: Any
    ) -> SamplingResult:
        """What the SDK's sampler says of a trace that begins here; its state goes on with it."""
        from opentelemetry.context import Context
        from opentelemetry.trace import get_current_span

        result = self._sampler.should_sample(Context(), getrandbits(128), name, *more, **others)
        result.trace_state = get_current_span(parent_context).get_span_context().trace_state
        return result

    def get_description(self) -> str:
        """For whoever asks the SDK."""
        return self._sampler.get_description()


class _Session(requests.Session):
    """requests' own, by the environment, but for the proxies: they are what they are for everything here."""

    def __init__(self, proxies: dict[str, str]) -> None:
        super().__init__()
        self.proxies = proxies

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        """What a request is sent with."""
        return {**super().merge_environment_settings(*args, **kwargs), "proxies": self.proxies}


def begin(environ: Mapping[str, Any]) -> CallSpan | None:
    """The span of a call whose request, of this WSGI environ, has just arrived; None while tracing is off."""
    return None if _tracer is None else CallSpan(_tracer, environ)


class CallSpan:
    """One call's span."""

    def __init__(self, tracer: Tracer, environ: Mapping[str, Any]) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._propagator = TraceContextTextMapPropagator()
        names = {"traceparent": "HTTP_TRACEPARENT", "tracestate": "HTTP_TRACESTATE"}
        carrier = {name: environ[key] for name, key in names.items() if key in environ}
        self._span = tracer.start_span(
            _method(environ["REQUEST_METHOD"]),
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
        )

    def pass_on(self, headers: Headers) -> Headers:
        """The headers for the upstream, with this span as the parent of what it does."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(self._span))
        for name, value in carrier.items():
            headers = with_header(headers, name, value)
        return headers

    def end(self, record: CallRecord, request_body: bytes | None) -> None:
        """
        End it with what the record tells.

        Args:
            request_body: Where it was read as a whole; the model that was asked for stands there.
        """
        span = self._span
        if span.is_recording():
            from opentelemetry.trace import StatusCode

            span.update_name(_name(record))
            span.set_attributes(_attributes(record, _model_in(request_body)))
            has_failed = record.outcome in ("upstream_failed", "upstream_timeout") or record.failed_inside
            if has_failed or record.status_code >= 500:
                span.set_status(StatusCode.ERROR)
        span.end()


def _name(record: CallRecord) -> str:
    """One of a few dozen: a collector groups by it, and nothing of it is a caller's to choose."""
    kind = endpoint_class(record.endpoint)
    return OPERATIONS.get(kind) or f"{_method(record.method)} /v1/{kind}"


def _method(method: str) -> str:
    return method if method in METHODS else "HTTP"


def _attributes(record: CallRecord, model: str | None) -> dict[str, str | int | float]:
    usage = record.metadata or {}
    # What an object had used when it was made is not what reading it uses.
    used: dict[str, Any] = {} if record.usage_source == "stored" else usage
    error = (record.error or {}).get("code") or ("failed_inside" if record.failed_inside else record.outcome)
    failed = record.outcome != "complete" or record.status_code >= 400 or record.failed_inside
    known: dict[str, Any] = {
        "http.request.method": record.method if record.method in METHODS else "_OTHER",
        "url.path": record.endpoint,
        "http.response.status_code": record.status_code,
        "error.type": error if failed else None,
        "gen_ai.operation.name": OPERATIONS.get(endpoint_class(record.endpoint)),
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.response.model": usage.get("model"),
        "gen_ai.usage.input_tokens": used.get("prompt_tokens"),
        "gen_ai.usage.output_tokens": used.get("completion_tokens"),
        "llmproxy.request_id": record.request_id,
        "llmproxy.project_id": record.project_id,
        "llmproxy.outcome": record.outcome,
        "llmproxy.stream": record.stream,
        "llmproxy.ttft_ms": record.ttft_ms,
    }
    told = {name: value for name, value in known.items() if isinstance(value, str | int | float)}
    return {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in told.items()}


def _model_in(body: bytes | None) -> str | None:
    try:
        told = orjson.loads(body or b"null")
    except orjson.JSONDecodeError:
        return None
    model = told.get("model") if isinstance(told, dict) else None
    return model if isinstance(model, str) else None
