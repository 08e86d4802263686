"""Why a request failed, in words that group: the status with OpenAI's error code, or what happened on the wire."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from benchmark.load.events import data_of, name_of, object_in

LONGEST_MESSAGE = 200

Cause = tuple[str, str]


def of_response(status: int, body: bytes) -> Cause:
    """The cause, such as `429 rate_limit_exceeded`, and its own message, for a response that is no success."""
    code, message = _code_and_message(object_in(body).get("error"))
    return (f"{status} {code}" if code else str(status)), message


def of_body(body: bytes) -> Cause | None:
    """Why a response of 2xx is none: its body is an error. None of any other body."""
    failed = _failure_in("", object_in(body)) if b'"error"' in body else None
    return failed and (f"error in the body: {failed[0] or 'no code'}", failed[1])


def of_event(event: bytes) -> Cause | None:
    """Why a stream failed in which this event came; None of an event that is no error, on whichever surface."""
    failed = _failure_in(name_of(event), data_of(event))
    return failed and (f"error in the stream: {failed[0] or 'no code'}", failed[1])


def _failure_in(name: str, data: dict[str, Any]) -> Cause | None:
    """
    Code and message of what says that a request failed.

    Chats and completions send an `error` object, or a choice whose `finish_reason` is "error"; the Responses API an
    event of type "error" that is the error itself, or `response.failed`, which has it in its `response`; runs of
    threads `thread.run.failed`, as `last_error`; and Groq the text of one in `x_groq`.
    """
    error = data.get("error")
    match data.get("type") or name:
        case "error":
            error = error or data
        case "response.failed":
            response = data.get("response")
            error = (response.get("error") if isinstance(response, dict) else None) or error or {}
        case "thread.run.failed":
            error = error or data.get("last_error") or {}
        case _ if choice := _failed_choice(data):
            error = error or choice.get("error") or {"code": "finish_reason"}
        case _ if isinstance(groq := data.get("x_groq"), dict):
            error = error or groq.get("error")
    return None if error is None or error is False else _code_and_message(error)


def _failed_choice(data: dict[str, Any]) -> dict[str, Any] | None:
    choices = data.get("choices")
    found = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    return next((one for one in found if one.get("finish_reason") == "error"), None)


def _code_and_message(error: Any) -> Cause:
    if not isinstance(error, dict):
        return "", _shown(error)[:LONGEST_MESSAGE] if isinstance(error, str) else ""
    code = error.get("code") or error.get("type") or ""
    return _shown(code), _shown(error.get("message") or "")[:LONGEST_MESSAGE]


def _shown(told: object) -> str:
    """As text that terminals and files take: half an emoji is none."""
    return str(told).encode("utf-8", "replace").decode()


def of_exception(error: BaseException, *, answered: bool) -> str:
    """What happened on the wire. `answered` says whether the head of a response had come."""
    # Locust's client wraps what it would have retried, were it not a POST.
    error = getattr(error, "original", None) or error
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionResetError() | BrokenPipeError():
            return "response cut short" if answered else "connection reset"
        case socket.gaierror():
            return "host name not found"
        case ssl.SSLCertVerificationError():
            return f"TLS certificate refused: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {getattr(error, 'reason', None) or error}"
        case OSError():
            return error.strerror or str(error)
    if answered:
        return "response cut short"
    # The parser's errors: nothing came, not a whole head, or something that is no HTTP.
    is_closed = any(word in str(error) for word in ("closed", "EOF", "Incomplete"))
    return "connection closed without a response" if is_closed else "the response is no HTTP"
