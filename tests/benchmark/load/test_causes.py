"""Why a request failed, in words that group."""

import ssl

import pytest

from benchmark.load import causes


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"error": {"code": "server_error", "message": "m"}}', "error in the body: server_error"),
        (b'{"status": "failed", "error": {"code": "rate", "message": "m"}, "output": []}', "error in the body: rate"),
        (b'{"choices": [{"finish_reason": "error"}]}', "error in the body: finish_reason"),
        (b'{"error": {"code": "cut", "message": "half of it: \\ud83d"}}', "error in the body: cut"),
        (b'{"status": "completed", "error": null}', None),
        (b'{"choices": [{"message": {"content": "\\"error\\""}}]}', None),
        (b'not JSON, "error"', None),
        (b"", None),
    ],
)
def test_an_answer_of_200_whose_body_is_an_error_failed(body, cause):
    found = causes.of_body(body)

    assert (found and found[0]) == cause


@pytest.mark.parametrize(
    ("error", "answered", "cause"),
    [
        (TimeoutError("timed out"), False, "timeout"),
        (TimeoutError("timed out"), True, "timeout"),
        (ConnectionRefusedError(), False, "connection refused"),
        (ConnectionResetError(), False, "connection reset"),
        (ConnectionResetError(), True, "response cut short"),
        (OSError(113, "No route to host"), False, "No route to host"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), False, "TLS: "),
        (Exception("Incomplete response."), True, "response cut short"),
        (Exception("connection closed."), False, "connection closed without a response"),
        (Exception("Expected HTTP/, RTSP/ or ICE/"), False, "the response is no HTTP"),
    ],
)
def test_what_happened_on_the_wire_has_a_name(error, answered, cause):
    assert causes.of_exception(error, answered=answered).startswith(cause)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (
            b'{"error": {"message": "m", "type": "requests", "code": "rate_limit_exceeded"}}',
            "429 rate_limit_exceeded",
        ),
        (b'{"error": {"message": "m", "type": "requests", "code": null}}', "429 requests"),
        (b'{"error": "text"}', "429"),
        (b"<html>", "429"),
        (b"[]", "429"),
    ],
)
def test_a_status_is_named_with_the_code_of_its_error(body, cause):
    assert causes.of_response(429, body)[0] == cause
