"""The one call that every load makes, and its response."""

from __future__ import annotations

import json

UPSTREAM_KEY = "sk-benchmark-0123456789"
CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
# One of 2 KB, whose output is bounded; and what a token's owner may want to have limited.
LONG_BODY = json.dumps(
    {"model": "gpt-4o", "max_tokens": 512, "messages": [{"role": "user", "content": "Hello " * 320}]}
).encode()
LIMITS = {
    "rules": {
        "models": ["gpt-5", "gpt-4o*", "text-embedding-3-*"],
        "addresses": ["127.0.0.0/8", "2001:db8::/32"],
        "limits": {"max_output_tokens": 4096, "tools": ["function"], "n": 1},
    },
    "meters": [
        {"unit": "usd", "period": "day", "amount": "1000000"},
        {"unit": "tokens", "period": "minute", "amount": 1_000_000_000},
    ],
}
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "User-Agent": "benchmark",
    "Accept-Encoding": "gzip, deflate",
}
RESPONSE = json.dumps(
    {
        "id": "chatcmpl-2c8329de90c19c39ed5127b7",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello! How can I help you today?", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 12,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
    }
)
RESPONSE_HEADERS = {
    "x-request-id": "req_0123456789abcdef",
    "openai-processing-ms": "12",
    "openai-organization": "org",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
}
CHUNK = {
    "id": "chatcmpl-2c8329de90c19c39ed5127b7",
    "object": "chat.completion.chunk",
    "created": 1767225600,
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "delta": {"content": " Hello"}, "finish_reason": None}],
}


def request(bearer: str, *, body: bytes = BODY, query: str = "") -> bytes:
    """The call as it stands on the wire, for one who reads its response himself."""
    headers = {"Host": "localhost", "Authorization": f"Bearer {bearer}", **HEADERS, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {CHAT}{query} HTTP/1.1\r\n{lines}\r\n".encode() + body
