"""
The bodies that OpenAI documents, built from a request and nothing else.

Pure: no sockets, no clock, no randomness. Equal requests get equal responses (ids come from a digest of the
request, `created` is a constant), so that a proxied response can be compared with a direct one byte by byte.

Each route is a function `Ask -> dict | list[bytes] | Binary`: a JSON object, the events of a stream, or bytes
of a given size and type. Source: OpenAI's API reference, and the response models of the official Python package.
"""

import base64
import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import unquote

import orjson

CREATED = 1_767_225_600  # 2026-01-01T00:00:00Z
PROMPT_TOKENS = 12
CACHED_TOKENS = 4
REASONING_TOKENS = 2
MODELS = (
    "gpt-4.1-mini",
    "gpt-4o-mini",
    "gpt-image-1",
    "omni-moderation-latest",
    "text-embedding-3-small",
    "whisper-1",
)
PIECE_BYTES = 64 * 1024
DONE = b"data: [DONE]\n\n"

_WORDS = ("Tokens", " wither", ",", " calls", " pass", ";", " über", "🌿", " and", " back", ".")
# Random-looking, so that compression does not shrink it; always the same, so that a test can hash it.
_BLOCK = Random(0).randbytes(PIECE_BYTES)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FormFile:
    """One file part of a multipart body: counted and hashed, never kept."""

    name: str
    filename: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What a route may look at. `seed` is 24 hex digits that depend on the request's content alone."""

    seed: str
    body: Json = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    file: FormFile | None = None
    body_bytes: int = 0
    resource: str = ""
    count: int = 5
    ending: str = "complete"
    size: int | None = None

    @property
    def words(self) -> list[str]:
        """The text of the response, one piece per content event."""
        return list(itertools.islice(itertools.cycle(_WORDS), self.count))

    @property
    def model(self) -> str:
        return str(self.body.get("model") or self.fields.get("model") or MODELS[0])


@dataclass(frozen=True, slots=True)
class Binary:
    """A body of `size` bytes; `data` where the bytes matter, else the pattern of `binary_pieces`."""

    content_type: str
    size: int
    data: bytes | None = None


Shape = Json | list[bytes] | Binary


class BadAsk(ValueError):
    """The request lacks what OpenAI demands: a 400 that names `param`."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def binary_pieces(size: int) -> Iterator[bytes]:
    """The bytes of a binary response in pieces of at most 64 KiB; the same for every request."""
    for start in range(0, size, PIECE_BYTES):
        yield _BLOCK[: size - start]


def error(
    message: str, *, type: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> Json:
    """OpenAI's error body."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def error_for(status: int) -> Json:
    """The body that OpenAI sends with this status."""
    message, type_, code = _ERRORS.get(
        status, ("The server had an error while processing your request.", "server_error", None)
    )
    return error(message, type=type_, code=code)


_ERRORS = {
    400: ("Invalid value for 'temperature'.", "invalid_request_error", None),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    403: ("You are not allowed to use this model.", "permission_error", "unsupported_country_region_territory"),
    404: ("The model does not exist or you do not have access to it.", "invalid_request_error", "model_not_found"),
    409: ("The resource was changed by another request.", "invalid_request_error", "conflict"),
    413: ("The request is too large.", "invalid_request_error", "request_too_large"),
    422: ("The request could not be processed.", "invalid_request_error", "unprocessable_entity"),
    429: ("Rate limit reached for requests per min. Please try again later.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later", "service_unavailable_error", None),
}


def _data(payload: Json) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def _typed(payload: Json) -> bytes:
    return f"event: {payload['type']}\n".encode() + _data(payload)


def _stream_error() -> bytes:
    return b"event: error\n" + _data(error_for(500))


# --- chat and completions -------------------------------------------------------------------------------------


def _chat_usage(ask: Ask) -> Json:
    completion = len(ask.words) + REASONING_TOKENS
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion,
        "total_tokens": PROMPT_TOKENS + completion,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": REASONING_TOKENS,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _finish_reason(ask: Ask) -> str:
    return "length" if ask.ending == "incomplete" else "stop"


def chat(ask: Ask) -> Shape:
    """POST /v1/chat/completions."""
    if not ask.body.get("model"):
        raise BadAsk("you must provide a model parameter")
    if ask.body.get("stream"):
        return _chat_events(ask)
    message: Json = {"role": "assistant", "content": "".join(ask.words), "refusal": None, "annotations": []}
    return {
        "id": f"chatcmpl-{ask.seed}",
        "object": "chat.completion",
        "created": CREATED,
        "model": ask.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(ask)}],
        "usage": _chat_usage(ask),
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }


def _chat_events(ask: Ask) -> list[bytes]:
    def choice(delta: Json, finish_reason: str | None = None) -> list[Json]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]

    first = choice({"role": "assistant", "content": "", "refusal": None})
    words = [choice({"content": word}) for word in ask.words]
    base = {
        "id": f"chatcmpl-{ask.seed}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": ask.model,
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }
    return _choice_events(ask, base, [first, *words], choice({}, _finish_reason(ask)))


def completion(ask: Ask) -> Shape:
    """POST /v1/completions, the legacy surface."""

    def choice(text: str, finish_reason: str | None) -> list[Json]:
        return [{"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}]

    base = {"id": f"cmpl-{ask.seed}", "object": "text_completion", "created": CREATED, "model": ask.model}
    if ask.body.get("stream"):
        words = [choice(word, None) for word in ask.words]
        return _choice_events(ask, base, words, choice("", _finish_reason(ask)))
    return {**base, "choices": choice("".join(ask.words), _finish_reason(ask)), "usage": _chat_usage(ask)}


def _choice_events(ask: Ask, base: Json, growing: list[list[Json]], last: list[Json]) -> list[bytes]:
    """Chunks that share their head. `usage` is null in all but one of them when asked for, and absent otherwise."""
    wants_usage = bool((ask.body.get("stream_options") or {}).get("include_usage"))
    tail: Json = {"usage": None} if wants_usage else {}
    events = [_data({**base, "choices": choices, **tail}) for choices in growing]
    if ask.ending == "failed":
        return [*events, _stream_error()]
    events.append(_data({**base, "choices": last, **tail}))
    if wants_usage:
        events.append(_data({**base, "choices": [], "usage": _chat_usage(ask)}))
    return [*events, DONE]


# --- responses ------------------------------------------------------------------------------------------------


def responses(ask: Ask) -> Shape:
    """POST /v1/responses; its stream ends in response.completed, .incomplete or .failed as `ask.ending` says."""
    return _response_events(ask) if ask.body.get("stream") else _response(ask, _response_status(ask))


def _response_status(ask: Ask) -> str:
    return {"complete": "completed"}.get(ask.ending, ask.ending)


def _response(ask: Ask, status: str) -> Json:
    ended = status in ("completed", "incomplete")
    return {
        "id": f"resp_{ask.seed}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "completed_at": CREATED if status == "completed" else None,
        "error": {"code": "server_error", "message": "The model failed."} if status == "failed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": ask.body.get("instructions"),
        "max_output_tokens": ask.body.get("max_output_tokens"),
        "model": ask.model,
        "output": [_message(ask, status)] if ended else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _response_usage(ask) if ended else None,
        "user": None,
        "metadata": {},
    }


def _response_usage(ask: Ask) -> Json:
    output = len(ask.words) + REASONING_TOKENS
    return {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": CACHED_TOKENS, "cache_write_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": REASONING_TOKENS},
        "total_tokens": PROMPT_TOKENS + output,
    }


def _text_part(text: str) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _message(ask: Ask, status: str) -> Json:
    content = [] if status == "in_progress" else [_text_part("".join(ask.words))]
    return {"id": f"msg_{ask.seed}", "type": "message", "status": status, "content": content, "role": "assistant"}


def _response_events(ask: Ask) -> list[bytes]:
    place = {"item_id": f"msg_{ask.seed}", "output_index": 0, "content_index": 0}
    payloads: list[Json] = [
        {"type": "response.created", "response": _response(ask, "in_progress")},
        {"type": "response.in_progress", "response": _response(ask, "in_progress")},
        {"type": "response.output_item.added", "output_index": 0, "item": _message(ask, "in_progress")},
        {"type": "response.content_part.added", **place, "part": _text_part("")},
        *({"type": "response.output_text.delta", **place, "delta": word, "logprobs": []} for word in ask.words),
    ]
    status = _response_status(ask)
    if status != "failed":
        text = "".join(ask.words)
        payloads += [
            {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **place, "part": _text_part(text)},
            {"type": "response.output_item.done", "output_index": 0, "item": _message(ask, status)},
        ]
    payloads.append({"type": f"response.{status}", "response": _response(ask, status)})
    return [_typed({**payload, "sequence_number": number}) for number, payload in enumerate(payloads)]


# --- embeddings, moderations, models --------------------------------------------------------------------------


def embeddings(ask: Ask) -> Shape:
    """POST /v1/embeddings, as floats or base64."""
    given = ask.body.get("input", "")
    inputs = given if isinstance(given, list) and not all(isinstance(part, int) for part in given) else [given]
    vector = [round(number / 64 - 0.5, 6) for number in range(int(ask.body.get("dimensions") or 64))]
    embedding: Any = vector
    if ask.body.get("encoding_format") == "base64":
        embedding = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    rows = [{"object": "embedding", "index": index, "embedding": embedding} for index in range(len(inputs))]
    usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
    return {"object": "list", "data": rows, "model": ask.model, "usage": usage}


_CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)


def moderation(ask: Ask) -> Shape:
    """POST /v1/moderations. This surface reports no usage."""
    given = ask.body.get("input", "")
    result = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0001),
        "category_applied_input_types": {category: ["text"] for category in _CATEGORIES},
    }
    results = [result] * (len(given) if isinstance(given, list) else 1)
    return {"id": f"modr-{ask.seed}", "model": ask.body.get("model", "omni-moderation-latest"), "results": results}


def models(_ask: Ask) -> Shape:
    """GET /v1/models."""
    return {"object": "list", "data": [_model(name) for name in MODELS]}


def model(ask: Ask) -> Shape:
    """GET /v1/models/{id}."""
    return _model(ask.resource)


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}


# --- images and audio -----------------------------------------------------------------------------------------


def images(ask: Ask) -> Shape:
    """POST /v1/images/generations; a stream shows `partial_images` sketches before the picture."""
    look = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
    picture = base64.b64encode(_BLOCK[:96]).decode()
    usage = {
        "total_tokens": 100,
        "input_tokens": 50,
        "output_tokens": 50,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    }
    if not ask.body.get("stream"):
        data = [{"b64_json": picture}] * int(ask.body.get("n") or 1)
        return {"created": CREATED, **look, "data": data, "usage": usage}
    frame = {"created_at": CREATED, **look, "b64_json": picture}
    return [
        *(
            _typed({"type": "image_generation.partial_image", **frame, "partial_image_index": index})
            for index in range(int(ask.body.get("partial_images") or 0))
        ),
        _typed({"type": "image_generation.completed", **frame, "usage": usage}),
    ]


def transcription(ask: Ask) -> Shape:
    """POST /v1/audio/transcriptions: usage in tokens, or in seconds for whisper-1."""
    if ask.file is None:
        raise BadAsk("you must provide a file", "file")
    text = "".join(ask.words)
    output = len(ask.words)
    usage: Json = {
        "type": "tokens",
        "total_tokens": PROMPT_TOKENS + output,
        "input_tokens": PROMPT_TOKENS,
        "input_token_details": {"text_tokens": 2, "audio_tokens": PROMPT_TOKENS - 2},
        "output_tokens": output,
    }
    if ask.fields.get("stream") == "true":
        words = [_typed({"type": "transcript.text.delta", "delta": word}) for word in ask.words]
        return [*words, _typed({"type": "transcript.text.done", "text": text, "usage": usage}), DONE]
    if ask.model == "whisper-1":
        usage = {"type": "duration", "seconds": 9}
    match ask.fields.get("response_format", "json"):
        case "text" | "srt" | "vtt":
            return Binary("text/plain; charset=utf-8", len(text.encode()) + 1, f"{text}\n".encode())
        case "verbose_json":
            return {
                "task": "transcribe",
                "language": "english",
                "duration": 9.0,
                "text": text,
                "segments": [],
                "usage": usage,
            }
    return {"text": text, "usage": usage}


def speech(ask: Ask) -> Shape:
    """POST /v1/audio/speech: bytes, or events of base64 with usage in the last."""
    if ask.body.get("stream_format") == "sse":
        sound = base64.b64encode(_BLOCK[:96]).decode()
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": ask.count, "total_tokens": PROMPT_TOKENS + ask.count}
        deltas = [_typed({"type": "speech.audio.delta", "audio": sound})] * ask.count
        return [*deltas, _typed({"type": "speech.audio.done", "usage": usage})]
    return Binary("audio/mpeg", 4096 if ask.size is None else ask.size)


# --- files and batches ----------------------------------------------------------------------------------------


def create_file(ask: Ask) -> Shape:
    """POST /v1/files. `bytes` is the size of the file part, or of the whole body when it is no form."""
    if ask.file is None:
        return _file(f"file-{ask.seed}", "upload.bin", ask.body_bytes)
    return _file(f"file-{ask.seed}", ask.file.filename, ask.file.bytes, ask.fields.get("purpose", "assistants"))


def _file(id_: str, filename: str, size: int, purpose: str = "assistants") -> Json:
    return {
        "id": id_,
        "object": "file",
        "bytes": size,
        "created_at": CREATED,
        "expires_at": None,
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }


def get_file(ask: Ask) -> Shape:
    """GET /v1/files/{id}."""
    return _file(ask.resource, "upload.bin", 1024)


def files(_ask: Ask) -> Shape:
    """GET /v1/files."""
    return {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


def file_content(ask: Ask) -> Shape:
    """GET /v1/files/{id}/content."""
    return Binary("application/octet-stream", 1024 if ask.size is None else ask.size)


def delete_file(ask: Ask) -> Shape:
    """DELETE /v1/files/{id}."""
    return {"id": ask.resource, "object": "file", "deleted": True}


def create_batch(ask: Ask) -> Shape:
    """POST /v1/batches: just made, nothing used yet."""
    return _batch(f"batch_{ask.seed}", ask, "validating")


def get_batch(ask: Ask) -> Shape:
    """GET /v1/batches/{id}: completed, with usage."""
    return _batch(ask.resource, ask, "completed")


def batches(ask: Ask) -> Shape:
    """GET /v1/batches."""
    batch = _batch("batch_mock", ask, "completed")
    return {"object": "list", "data": [batch], "first_id": batch["id"], "last_id": batch["id"], "has_more": False}


def _batch(id_: str, ask: Ask, status: str) -> Json:
    done = status == "completed"
    return {
        "id": id_,
        "object": "batch",
        "endpoint": ask.body.get("endpoint", "/v1/chat/completions"),
        "model": MODELS[0] if done else None,
        "errors": None,
        "input_file_id": ask.body.get("input_file_id", "file-mock"),
        "completion_window": ask.body.get("completion_window", "24h"),
        "status": status,
        "output_file_id": "file-mock-output" if done else None,
        "error_file_id": None,
        "created_at": CREATED,
        "in_progress_at": CREATED if done else None,
        "expires_at": CREATED + 86_400,
        "finalizing_at": CREATED if done else None,
        "completed_at": CREATED if done else None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 2 if done else 0, "completed": 2 if done else 0, "failed": 0},
        "usage": _response_usage(ask) if done else None,
        "metadata": ask.body.get("metadata"),
    }


# --- routes ---------------------------------------------------------------------------------------------------

Route = Callable[[Ask], Shape]

_FIXED: dict[str, dict[str, Route]] = {
    "/v1/chat/completions": {"POST": chat},
    "/v1/completions": {"POST": completion},
    "/v1/responses": {"POST": responses},
    "/v1/embeddings": {"POST": embeddings},
    "/v1/models": {"GET": models},
    "/v1/moderations": {"POST": moderation},
    "/v1/images/generations": {"POST": images},
    "/v1/audio/transcriptions": {"POST": transcription},
    "/v1/audio/speech": {"POST": speech},
    "/v1/files": {"POST": create_file, "GET": files},
    "/v1/batches": {"POST": create_batch, "GET": batches},
}
_NAMED: dict[tuple[str, str], dict[str, Route]] = {
    ("models", ""): {"GET": model},
    ("files", ""): {"GET": get_file, "DELETE": delete_file},
    ("files", "content"): {"GET": file_content},
    ("batches", ""): {"GET": get_batch},
}


def routes(path: str) -> tuple[dict[str, Route], str]:
    """The routes by method under this raw path, and the id it names. An unknown path has none."""
    if found := _FIXED.get(path):
        return found, ""
    parts = path.split("/")
    if len(parts) not in (4, 5) or parts[1] != "v1":
        return {}, ""
    return _NAMED.get((parts[2], "".join(parts[4:])), {}), unquote(parts[3])
