"""Why a request failed, in words that group: the status with OpenAI's error code, or what happened on the wire."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import orjson

LONGEST_MESSAGE = 200


def of_answer(status: int, body: bytes) -> tuple[str, str]:
    """The cause, such as `429 rate_limit_exceeded`, and the answer's own message, for a status that is no success."""
    error = _error_object(body)
    code = error.get("code") or error.get("type")
    return (f"{status} {code}" if code else str(status)), str(error.get("message") or "")[:LONGEST_MESSAGE]


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        error = orjson.loads(body).get("error")
    except (ValueError, AttributeError):
        return {}
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def of_exception(error: BaseException, *, answered: bool) -> str:
    """What happened on the wire. `answered` says whether the head of an answer had come."""
    # Locust's client wraps what it would have retried, were it not a POST.
    error = getattr(error, "original", None) or error
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionResetError() | BrokenPipeError():
            return "answer cut short" if answered else "connection reset"
        case socket.gaierror():
            return "host name not found"
        case ssl.SSLCertVerificationError():
            return f"TLS certificate refused: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS: {getattr(error, 'reason', None) or error}"
        case OSError():
            return error.strerror or str(error)
    if answered:
        return "answer cut short"
    # The parser's errors: nothing came, not a whole head, or something that is no HTTP.
    is_closed = any(word in str(error) for word in ("closed", "EOF", "Incomplete"))
    return "connection closed without an answer" if is_closed else "the answer is no HTTP"
