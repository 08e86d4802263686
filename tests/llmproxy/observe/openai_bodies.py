"""
One answer per surface of OpenAI's API as documented, and what a record must say of it.

Written by hand from the API reference and the types of the official package, not taken from the benchmark's mock:
the observer and the mock must not share a mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """One answer and the facts in it."""

    name: str
    endpoint: str
    body: bytes
    metadata: dict[str, Any] | None
    content_type: str = JSON
    status: int = 200
    error: dict[str, str | None] | None = None
    method: str = "POST"

    @property
    def usage_source(self) -> str:
        if self.method == "GET" and self.metadata:
            return "stored"
        counts = {"prompt_tokens", "total_tokens", "seconds"}
        return "reported" if counts & set(self.metadata or {}) else "absent"


CHAT = Answer(
    "chat",
    "/v1/chat/completions",
    rb"""{
  "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
  "object": "chat.completion",
  "created": 1741569952,
  "model": "gpt-4.1-2025-04-14",
  "choices": [
    {
      "index": 0,
      "message": {
        "role": "assistant",
        "content": "He said \"usage\": {\"prompt_tokens\": 1} \\ \u00fcber \ud83c\udf3f",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {
          "name": "bill", "arguments": "{\"usage\":{\"prompt_tokens\":7},\"model\":\"fake\"}"}}],
        "usage": {"prompt_tokens": 2, "total_tokens": 2}, "model": "not-me", "created": 1
      },
      "logprobs": null,
      "finish_reason": "stop"
    }
  ],
  "usage": {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
    "completion_tokens_details": {
      "reasoning_tokens": 4,
      "audio_tokens": 0,
      "accepted_prediction_tokens": 0,
      "rejected_prediction_tokens": 0
    }
  },
  "service_tier": "default"
}
""",
    {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 16, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 4,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
        "model": "gpt-4.1-2025-04-14",
        "created": 1741569952,
    },
)

_CHUNK = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,'
    b'"model":"gpt-4o-mini","system_fingerprint":"fp_44709d6fcb","choices":[%s],"usage":%s}\n\n'
)
_DELTA = b'{"index":0,"delta":{"content":"%s"},"logprobs":null,"finish_reason":null}'
_CHAT_USAGE = b'{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}'
_CHAT_METADATA = {
    "prompt_tokens": 9,
    "completion_tokens": 12,
    "total_tokens": 21,
    "model": "gpt-4o-mini",
    "created": 1694268190,
}

CHAT_STREAM = Answer(
    "chat stream with usage",
    "/v1/chat/completions",
    _CHUNK % (b'{"index":0,"delta":{"role":"assistant","content":""}}', b"null")
    + _CHUNK % (_DELTA % b"Hello", b"null")
    + _CHUNK % (_DELTA % r"\"usage\":{\"prompt_tokens\":5} ünï 🌿".encode(), b"null")
    + _CHUNK % (b"", _CHAT_USAGE)
    + b"data: [DONE]\n\n",
    _CHAT_METADATA,
    content_type=SSE,
)

CHAT_STREAM_CRLF = Answer(
    "chat stream with CRLF, comments, ids and data on several lines",
    "/v1/chat/completions",
    b"\xef\xbb\xbf: ping\r\n\r\nretry: 10\r\nid: 7\r\n"
    + (_CHUNK % (_DELTA % "für".encode(), b"null")).replace(b"\n", b"\r\n")
    + (_CHUNK % (b"", _CHAT_USAGE))
    .replace(b'"usage":', b'"usage":\ndata:\ndata: ')
    .replace(b',"model"', b',\ndata:"model"')
    .replace(b"\n", b"\r\n")
    + b"data: [DONE]\r\n\r\n",
    _CHAT_METADATA,
    content_type=SSE,
)

CHAT_STREAM_CR = Answer(
    "chat stream with CR",
    "/v1/chat/completions",
    CHAT_STREAM.body.replace(b"\n", b"\r"),
    _CHAT_METADATA,
    content_type=SSE,
)

CHAT_STREAM_UNASKED = Answer(
    "chat stream whose caller did not ask",
    "/v1/chat/completions",
    (_CHUNK % (_DELTA % b"Hello", b"null")).replace(b',"usage":null', b"") + b"data: [DONE]\n\n",
    {"model": "gpt-4o-mini", "created": 1694268190},
    content_type=SSE,
)

CHAT_STREAM_BROKEN = Answer(
    "chat stream with an error in it",
    "/v1/chat/completions",
    _CHUNK % (_DELTA % b"Hello", b"null") + b'data: {"error":{"message":"The server had an error for sk-proj-4242",'
    b'"type":"server_error","param":null,"code":"overloaded"}}\n\n',
    {"model": "gpt-4o-mini", "created": 1694268190},
    content_type=SSE,
    error={"code": "overloaded", "type": "server_error"},
)

COMPLETION = Answer(
    "completion",
    "/v1/completions",
    b'{"id":"cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7","object":"text_completion","created":1589478378,'
    b'"model":"gpt-3.5-turbo-instruct","system_fingerprint":"fp_44709d6fcb","choices":[{"text":"\\n\\nThis is'
    b' indeed a test","index":0,"logprobs":null,"finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}',
    {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "model": "gpt-3.5-turbo-instruct",
        "created": 1589478378,
    },
)

RESPONSE_SHAPE = (
    b'{"id":"resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b","object":"response",'
    b'"created_at":1741476542,"status":"%s","error":%s,"incomplete_details":null,"model":"gpt-4.1-2025-04-14",'
    b'"output":[{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":'
    b'"output_text","text":"\\"usage\\":{\\"input_tokens\\":1}","annotations":[]}],"usage":{"input_tokens":3}}],'
    b'"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"usage":%s,"metadata":{}}'
)
RESPONSE_USAGE = (
    b'{"input_tokens":36,"input_tokens_details":{"cached_tokens":8},"output_tokens":87,'
    b'"output_tokens_details":{"reasoning_tokens":64},"total_tokens":123}'
)
_RESPONSE_METADATA = {
    "prompt_tokens": 36,
    "completion_tokens": 87,
    "total_tokens": 123,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 64},
    "model": "gpt-4.1-2025-04-14",
    "created": 1741476542,
}

RESPONSE = Answer(
    "response", "/v1/responses", RESPONSE_SHAPE % (b"completed", b"null", RESPONSE_USAGE), _RESPONSE_METADATA
)


def response_event(name: bytes, rest: bytes) -> bytes:
    return b'event: %s\ndata: {"type":"%s","sequence_number":1,%s}\n\n' % (name, name, rest)


def _responses_stream(last: bytes, status: bytes, error: bytes, usage: bytes) -> bytes:
    started = RESPONSE_SHAPE % (b"in_progress", b"null", b"null")
    return (
        response_event(b"response.created", b'"response":' + started)
        + response_event(b"response.output_text.delta", b'"item_id":"msg_1","output_index":0,"delta":"Hi"')
        + response_event(b"response.output_item.done", b'"item":{"type":"message","usage":{"input_tokens":1}}')
        + response_event(last, b'"response":' + RESPONSE_SHAPE % (status, error, usage))
    )


RESPONSES_STREAM = Answer(
    "responses stream, completed",
    "/v1/responses",
    _responses_stream(b"response.completed", b"completed", b"null", RESPONSE_USAGE),
    _RESPONSE_METADATA,
    content_type=SSE,
)
RESPONSES_STREAM_INCOMPLETE = Answer(
    "responses stream, incomplete",
    "/v1/responses",
    _responses_stream(b"response.incomplete", b"incomplete", b"null", RESPONSE_USAGE),
    _RESPONSE_METADATA,
    content_type=SSE,
)
RESPONSES_STREAM_FAILED = Answer(
    "responses stream, failed",
    "/v1/responses",
    _responses_stream(
        b"response.failed", b"failed", b'{"code":"server_error","message":"The model failed"}', RESPONSE_USAGE
    ),
    _RESPONSE_METADATA,
    content_type=SSE,
    error={"code": "server_error", "type": None},
)
RESPONSES_STREAM_ERROR = Answer(
    "responses stream with the flat error event",
    "/v1/responses",
    b'event: error\ndata: {"type":"error","code":"rate_limit_exceeded","message":"Slow down","param":null,'
    b'"sequence_number":1}\n\n',
    None,
    content_type=SSE,
    error={"code": "rate_limit_exceeded", "type": "error"},
)

EMBEDDINGS = Answer(
    "embeddings",
    "/v1/embeddings",
    b'{"object":"list","data":[{"object":"embedding","embedding":[0.0023064255,-0.009327292,-2.8e-05],"index":0}],'
    b'"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}',
    {"prompt_tokens": 8, "total_tokens": 8, "model": "text-embedding-3-small"},
)

_IMAGE_USAGE = (
    b'{"total_tokens":100,"input_tokens":50,"output_tokens":50,'
    b'"input_tokens_details":{"text_tokens":10,"image_tokens":40}}'
)
_IMAGE_METADATA = {
    "prompt_tokens": 50,
    "completion_tokens": 50,
    "total_tokens": 100,
    "prompt_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "size": "1024x1024",
    "created": 1713833628,
}
IMAGES = Answer(
    "images",
    "/v1/images/generations",
    b'{"created":1713833628,"background":"opaque","data":[{"b64_json":"iVBORw0KGgo+/9j="}],"size":"1024x1024",'
    b'"usage":' + _IMAGE_USAGE + b"}",
    _IMAGE_METADATA,
)
IMAGE_STREAM = Answer(
    "image stream",
    "/v1/images/generations",
    b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image","b64_json":"iVBO",'
    b'"created_at":1713833620,"partial_image_index":0}\n\n'
    b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"iVBORw0K",'
    b'"created_at":1713833628,"size":"1024x1024","usage":' + _IMAGE_USAGE + b"}\n\n",
    _IMAGE_METADATA,
    content_type=SSE,
)

_SPEECH_USAGE = (
    b'{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,"audio_tokens":14},'
    b'"output_tokens":45,"total_tokens":59}'
)
_SPEECH_METADATA = {
    "prompt_tokens": 14,
    "completion_tokens": 45,
    "total_tokens": 59,
    "prompt_tokens_details": {"text_tokens": 0, "audio_tokens": 14},
}
TRANSCRIPTION = Answer(
    "transcription, billed by tokens",
    "/v1/audio/transcriptions",
    b'{"text":"Imagine the wildest idea that you have ever had","usage":' + _SPEECH_USAGE + b"}",
    _SPEECH_METADATA,
)
TRANSCRIPTION_STREAM = Answer(
    "transcription stream",
    "/v1/audio/transcriptions",
    b'data: {"type":"transcript.text.delta","delta":"Imagine"}\n\n'
    b'data: {"type":"transcript.text.done","text":"Imagine","usage":' + _SPEECH_USAGE + b"}\n\n",
    _SPEECH_METADATA,
    content_type=SSE,
)
TRANSCRIPTION_BY_DURATION = Answer(
    "transcription, billed by duration",
    "/v1/audio/transcriptions",
    b'{"task":"transcribe","language":"english","duration":8.470000267028809,"text":"The beach",'
    b'"segments":[{"id":0,"tokens":[50364,440]}],"usage":{"type":"duration","seconds":9}}',
    {"seconds": 9},
)
TRANSLATION = Answer("translation", "/v1/audio/translations", b'{"text":"Hello, my name is Wolfgang"}', None)

MODERATION = Answer(
    "moderation",
    "/v1/moderations",
    b'{"id":"modr-0d9740456c391e43c445bf0f010940c7","model":"omni-moderation-latest","results":[{"flagged":true,'
    b'"categories":{"violence":true},"category_scores":{"violence":0.9999992}}]}',
    {"model": "omni-moderation-latest"},
)

BATCH = Answer(
    "batch",
    "/v1/batches/batch_abc123",
    b'{"id":"batch_abc123","object":"batch","endpoint":"/v1/chat/completions","model":"gpt-5-2025-08-07",'
    b'"errors":null,"input_file_id":"file-abc123","status":"completed","created_at":1711471533,'
    b'"request_counts":{"total":100,"completed":95,"failed":5},"usage":{"input_tokens":1500,'
    b'"input_tokens_details":{"cached_tokens":1024},"output_tokens":500,'
    b'"output_tokens_details":{"reasoning_tokens":300},"total_tokens":2000},"metadata":{"model":"x"}}',
    {
        "prompt_tokens": 1500,
        "completion_tokens": 500,
        "total_tokens": 2000,
        "prompt_tokens_details": {"cached_tokens": 1024},
        "completion_tokens_details": {"reasoning_tokens": 300},
        "model": "gpt-5-2025-08-07",
        "created": 1711471533,
    },
    method="GET",
)

FILE = Answer(
    "file",
    "/v1/files",
    b'{"id":"file-abc123","object":"file","bytes":120000,"created_at":1677610602,"filename":"a.jsonl"}',
    None,
)
MODEL = Answer(
    "model",
    "/v1/models/gpt-4.1",
    b'{"id":"gpt-4.1","object":"model","created":1686935002,"owned_by":"openai"}',
    None,
)
MODELS = Answer(
    "models",
    "/v1/models",
    b'{"object":"list","data":[{"id":"gpt-4.1","object":"model","created":1686935002,"owned_by":"openai"}]}',
    None,
)

UNKNOWN = Answer(
    "a surface of tomorrow",
    "/v1/dreams",
    b'{"object":"dream","model":"gpt-9","created_at":1741476542.0,"usage":{"input_tokens":1,"total_tokens":1}}',
    {"prompt_tokens": 1, "total_tokens": 1, "model": "gpt-9", "created": 1741476542},
)

RATE_LIMITED = Answer(
    "error body",
    "/v1/chat/completions",
    b'{"error":{"message":"Rate limit reached in organization org-9 on requests","type":"requests",'
    b'"param":null,"code":"rate_limit_exceeded"}}',
    None,
    status=429,
    error={"code": "rate_limit_exceeded", "type": "requests"},
)
MODEL_NOT_FOUND = Answer(
    "error body of a surface without usage",
    "/v1/models/gpt-0",
    b'{"error":{"message":"No such model","type":"invalid_request_error","param":"model","code":"model_not_found"}}',
    None,
    status=404,
    error={"code": "model_not_found", "type": "invalid_request_error"},
)

ANSWERS = [value for value in list(globals().values()) if isinstance(value, Answer)]
