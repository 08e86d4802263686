"""Headers by which gateways choose a model, among those that clients send."""

import pytest

from llmproxy.limits.choosing_headers import choosing_header

# Of OpenAI's SDKs and Codex, browsers, tracing, gateways' bookkeeping.
USUAL = [
    "Host", "Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Length", "Content-Type", "Cookie",
    "User-Agent", "X-Stainless-Lang", "X-Stainless-Package-Version", "X-Stainless-OS", "X-Stainless-Arch",
    "X-Stainless-Runtime", "X-Stainless-Runtime-Version", "X-Stainless-Async", "x-stainless-retry-count",
    "x-stainless-read-timeout", "x-stainless-helper-method", "x-stainless-poll-helper",
    "x-stainless-custom-poll-interval", "Idempotency-Key", "OpenAI-Beta", "OpenAI-Organization", "OpenAI-Project",
    "OpenAI-Safety-Identifier", "X-Client-Request-Id", "session_id", "conversation_id", "originator", "version",
    "x-openai-subagent", "traceparent", "tracestate", "baggage", "X-B3-TraceId", "X-Amzn-Trace-Id",
    "X-Cloud-Trace-Context", "X-Datadog-Trace-Id", "Sentry-Trace", "X-Forwarded-For", "X-Real-IP", "Via",
    "X-Envoy-Attempt-Count", "Origin", "Referer", "Sec-Fetch-Mode", "Sec-CH-UA", "Sec-WebSocket-Key", "HTTP-Referer",
    "X-Title", "x-litellm-timeout", "x-litellm-customer-id", "Helicone-Auth", "Helicone-User-Id",
    "Helicone-Property-Session", "x-ms-client-request-id", "Transfer-Encoding", "Expect", "Total-Route-Time",
    "X-Vercel-Deployment-Url", "X-Vercel-Id", "X-Identity-Provider", "X-Azure-Ref", "Fly-Prefer-Region", "CDN-Loop",
]  # fmt: skip


def test_what_clients_send_chooses_nothing() -> None:
    assert choosing_header((name, "model") for name in USUAL) is None


@pytest.mark.parametrize("name", ["X-Portkey-Config", "x_portkey_config", "HELICONE-FALLBACKS", "x-selected_model"])
def test_the_header_that_chooses_is_named_as_it_was_sent(name: str) -> None:
    assert choosing_header([("Host", "x"), (name, ""), ("x-provider", "y")]) == name


@pytest.mark.parametrize("name", ["x-models-of-mine", "remodel", "x-fallbacks" + 100 * "-y", "y" * 100])
def test_a_word_counts_where_it_stands_alone(name: str) -> None:
    assert (choosing_header([(name, "")]) is not None) == ("models" in name or "fallbacks" in name)
