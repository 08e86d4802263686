"""
What observing a response costs, in CPU microseconds: `python -m measure.observer_cost`.

Medians over rounds of this thread's CPU time. Compare rows and ratios; absolute numbers belong to the machine.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from llmproxy.observe.usage import UsageObserver, observe

ROUNDS = 15
READ_BYTES = 64 * 1024

_USAGE = {
    "prompt_tokens": 1117,
    "completion_tokens": 46,
    "total_tokens": 1163,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def chat_body(size: int) -> bytes:
    """A chat completion of about `size` bytes."""
    text = ('The quick brown fox "jumps" over the lazy dog.\n' * (size // 40))[: size - 680]
    return json.dumps(
        {
            "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
            "object": "chat.completion",
            "created": 1741569952,
            "model": "gpt-4.1-2025-04-14",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": _USAGE,
            "service_tier": "default",
            "system_fingerprint": "fp_50cad350e4",
        }
    ).encode()


def chat_events(count: int) -> list[bytes]:
    """A chat stream that was asked for usage, one event per read."""
    head = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "gpt-4.1-2025-04-14",
        "service_tier": "default",
        "system_fingerprint": "fp_50cad350e4",
    }
    delta = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}
    events = [{**head, "choices": [delta], "usage": None, "obfuscation": "pQ3x"} for _ in range(count)]
    events.append({**head, "choices": [], "usage": _USAGE})
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


def responses_events(count: int) -> list[bytes]:
    """A Responses stream, one event per read."""
    response = {
        "id": "resp_67c9fdcecf488190bdd9a0409de3a1ec07b8b0ad4e5eb654",
        "object": "response",
        "created_at": 1741290958,
        "status": "in_progress",
        "error": None,
        "model": "gpt-4.1-2025-04-14",
        "output": [],
        "usage": None,
    }
    delta = {"item_id": "msg_67c9fdcf37fc8190ba82116e33fb28c507b8b0ad4e5eb654", "output_index": 0, "delta": " word"}
    usage = {"input_tokens": 37, "output_tokens": 11, "total_tokens": 48}
    events: list[tuple[str, dict[str, Any]]] = [("response.created", {"response": response})]
    events += [("response.output_text.delta", {**delta, "sequence_number": n}) for n in range(count)]
    events += [("response.completed", {"response": {**response, "status": "completed", "usage": usage}})]
    return [
        f"event: {name}\ndata: ".encode() + json.dumps({"type": name, **data}).encode() + b"\n\n"
        for name, data in events
    ]


def image_body(size: int) -> bytes:
    """An image response with `size` bytes of base64 in it."""
    image = base64.b64encode(os.urandom(size * 3 // 4)).decode()
    usage = {"input_tokens": 50, "output_tokens": 4160, "total_tokens": 4210}
    return json.dumps({"created": 1713833628, "data": [{"b64_json": image}], "usage": usage}).encode()


def embeddings_body(count: int) -> bytes:
    """`count` embeddings of 1536 floats each."""
    vector = [round(-0.0069292834 + n / 7919, 10) for n in range(1536)]
    data = [{"object": "embedding", "index": n, "embedding": vector} for n in range(count)]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    body = {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage}
    return json.dumps(body).encode()


def in_reads(body: bytes) -> list[bytes]:
    return [body[begin : begin + READ_BYTES] for begin in range(0, len(body), READ_BYTES)]


def observed(reads: list[bytes], *, content_type: str, content_encoding: str | None = None) -> UsageObserver:
    """Everything the relay does for one call: make, feed, finish, read."""
    observer = observe(
        "/v1/chat/completions", status=200, content_type=content_type, content_encoding=content_encoding
    )
    for read in reads:
        observer.feed(read)
    observer.finish()
    facts = observer.facts
    _ = facts.metadata(), facts.usage_source, facts.error, observer.is_stream
    return observer


def median_us(call: Callable[[], object], *, repeats: int) -> float:
    """Median CPU microseconds of one call."""
    rounds = []
    for _ in range(ROUNDS):
        begin = time.thread_time_ns()
        for _ in range(repeats):
            call()
        rounds.append((time.thread_time_ns() - begin) / 1000 / repeats)
    return statistics.median(rounds)


def report(label: str, reads: list[bytes], *, per: int, unit: str, repeats: int, **headers: str) -> None:
    assert observed(reads, **headers).facts.usage_source == "reported", label
    cost = median_us(lambda: observed(reads, **headers), repeats=repeats) / per
    size = sum(map(len, reads))
    print(f"{label:<44} {size:>11,} bytes {cost:>12,.2f} us/{unit}")


def main() -> None:
    """Prints one row per kind of response."""
    sse, plain = "text/event-stream; charset=utf-8", "application/json"
    small = chat_body(2048)
    report("JSON of 2 KB", [small], per=1, unit="record", repeats=500, content_type=plain)
    report(
        "JSON of 2 KB, gzip",
        [gzip.compress(small)],
        per=1,
        unit="record",
        repeats=500,
        content_type=plain,
        content_encoding="gzip",
    )
    for label, events in (("chat stream", chat_events(1000)), ("Responses stream", responses_events(1000))):
        report(f"{label}, an event per read", events, per=len(events), unit="event", repeats=5, content_type=sse)
        joined = b"".join(events)
        for size in (16_000, 333):
            reads = [joined[begin : begin + size] for begin in range(0, len(joined), size)]
            name = f"{label}, reads of {size} bytes"
            report(name, reads, per=len(events), unit="event", repeats=5, content_type=sse)
    report("image of 50 MB", in_reads(image_body(50_000_000)), per=1, unit="record", repeats=1, content_type=plain)
    embeddings = in_reads(embeddings_body(300))
    report("300 embeddings", embeddings, per=1, unit="record", repeats=1, content_type=plain)


if __name__ == "__main__":
    main()
