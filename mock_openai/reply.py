"""
Which response a request gets: OpenAI's shape for its route, its error for a status, or what the controls ask for.

The controls are the request's `x-mock-*` headers, listed in `mock_openai`. How a response travels is the business of
`mock_exchange`.
"""

import math
from dataclasses import dataclass

import orjson

from mock_openai import shapes
from mock_openai.request import Request

BODILESS = frozenset({204, 304})
JSON_TYPE = "application/json"
EVENTS_TYPE = "text/event-stream; charset=utf-8"
DEFAULT_RETRY_AFTER_MS = 2000

CONTROLS = frozenset(
    {
        "close-idle", "cut-after", "cut-with", "delay-ms", "drop", "early", "encoding", "ending", "event-split",
        "events", "framing", "gap-ms", "gate", "hang-after", "header", "hold", "informational", "once",
        "ping", "read-gate", "redirect", "retry-after-ms", "size", "stamp", "status", "trailer",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """A response before framing. `events` is a stream's events or a body's parts; None where there is no body."""

    status: int
    content_type: str
    events: list[bytes] | None
    binary_size: int | None = None
    is_stream: bool = False
    headers: tuple[str, ...] = ()


def reply_to(request: Request, controls: dict[str, str], api_key: str | None) -> Reply:
    """Chooses the response as OpenAI would, unless the controls ask for another."""
    if unknown := controls.keys() - CONTROLS:
        # A misspelt control that does nothing would make a test that cannot fail.
        return _json(400, shapes.error(f"no such control: {', '.join(sorted(unknown))}"))
    if (refusal := _refusal(request, api_key)) is not None:
        return _json(401, refusal)
    if location := controls.get("redirect"):
        return _json(int(controls.get("status", "302")), {}, f"Location: {location}")
    status = int(controls.get("status", "200"))
    if status in BODILESS:
        return Reply(status, JSON_TYPE, None)
    if status >= 400:
        return _json(status, shapes.error_for(status), *_retry_after(status, controls))
    try:
        return _routed(request, controls, status)
    except shapes.BadAsk as bad:
        return _json(400, shapes.error(str(bad), param=bad.param))


def _refusal(request: Request, api_key: str | None) -> shapes.Json | None:
    key = request.bearer
    if key is None:
        return shapes.error("You didn't provide an API key.")
    if key.startswith("sk-") if api_key is None else key == api_key:
        return None
    return shapes.error("Incorrect API key provided.", code="invalid_api_key")


def _retry_after(status: int, controls: dict[str, str]) -> tuple[str, ...]:
    if status != 429 and "retry-after-ms" not in controls:
        return ()
    wait_ms = int(controls.get("retry-after-ms", DEFAULT_RETRY_AFTER_MS))
    return (f"retry-after: {math.ceil(wait_ms / 1000)}", f"retry-after-ms: {wait_ms}")


def _routed(request: Request, controls: dict[str, str], status: int) -> Reply:
    path = request.path
    if path.startswith("/v1/echo"):
        return _json(status, _echo(request))
    methods, resource = shapes.routes(path)
    route = methods.get("GET" if request.method == "HEAD" else request.method)
    if route is not None:
        return _shaped(route(_ask(request, controls, resource)), status)
    if methods:
        hint = f"Not allowed to {request.method} on {path}."
        return _json(405, shapes.error(hint, code="method_not_supported"), f"Allow: {', '.join(methods)}")
    return _json(404, shapes.error(f"Invalid URL ({request.method} {path})"))


def _echo(request: Request) -> shapes.Json:
    return {
        "object": "mock.echo",
        "method": request.method,
        "target": request.target.decode("latin-1"),
        "body_length": request.body_bytes,
        "body_sha256": request.sha256.hexdigest(),
    }


def _ask(request: Request, controls: dict[str, str], resource: str) -> shapes.Ask:
    form = request.form
    if form is not None and form.broken:
        raise shapes.BadAsk("Could not parse multipart form")
    try:
        body = request.parse_json()
    except ValueError:
        raise shapes.BadAsk("We could not parse the JSON body of your request.") from None
    if body is not None and not isinstance(body, dict):
        raise shapes.BadAsk("We expected the JSON body of your request to be an object.")
    if body is None and request.body_bytes and request.kept is None and form is None:
        # Too large to have been kept: any model will do.
        body = {"model": shapes.MODELS[0]} if request.content_type.startswith(b"application/json") else None
    return shapes.Ask(
        seed=request.seed(),
        body=body or {},
        fields=form.fields if form else {},
        file=form.files[0] if form and form.files else None,
        body_bytes=request.body_bytes,
        resource=resource,
        count=int(controls.get("events", "5")),
        ending=controls.get("ending", "complete"),
        size=int(controls["size"]) if "size" in controls else None,
    )


def _shaped(shape: shapes.Shape, status: int) -> Reply:
    if isinstance(shape, dict):
        return _json(status, shape)
    if isinstance(shape, list):
        return Reply(status, EVENTS_TYPE, shape, is_stream=True)
    if shape.data is not None:
        return Reply(status, shape.content_type, [shape.data])
    return Reply(status, shape.content_type, [], binary_size=shape.size)


def _json(status: int, payload: shapes.Json, *headers: str) -> Reply:
    return Reply(status, JSON_TYPE, [orjson.dumps(payload)], headers=headers)


def padded(body: bytes, size: int) -> bytes:
    """The JSON object grown to exactly `size` bytes, in front, so that its `usage` comes last."""
    frame = b'{"x_mock_padding":"",'
    fill = size - len(body) - len(frame) + 1
    return body if fill < 0 else frame[:-2] + b"x" * fill + frame[-2:] + body[1:]
