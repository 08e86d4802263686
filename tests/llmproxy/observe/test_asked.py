"""What a request asked for is found in its body, JSON or a form, and nothing else is taken."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests import Request

from llmproxy.observe.asked import read_asked


def form(fields, files=None):
    prepared = Request(
        "POST", "http://h/", data=fields, files=files or {"file": ("a.mp3", b"\xff\x00--\r\n")}
    ).prepare()
    return prepared.body


@pytest.mark.parametrize(
    ("endpoint", "body", "asked"),
    [
        ("/v1/audio/speech", {"model": "tts-1", "input": "Hé!", "voice": "alloy"}, ("tts-1", {"characters": 3})),
        ("/v1/images/generations", {"model": "gpt-image-1", "prompt": "p"}, ("gpt-image-1", {"images": 1})),
        (
            "/v1/images/generations",
            {"model": "m", "n": 3, "size": "1024x1024", "quality": "low"},
            ("m", {"images": 3, "size": "1024x1024", "quality": "low"}),
        ),
        ("/v1/containers", {"name": "c"}, (None, {"tool_calls": {"container": 1}})),
        ("/v1/containers", {"memory_limit": "16g"}, (None, {"tool_calls": {"container_16g": 1}})),
        ("/v1/videos", {"model": "sora-2", "seconds": "4"}, ("sora-2", {"seconds": 4})),
        ("/v1/chat/completions", {"model": "gpt-5", "n": 3, "input": "x"}, ("gpt-5", {})),
        ("/v1/audio/transcriptions", {"model": "whisper-1", "seconds": 0, "characters": 1}, ("whisper-1", {})),
        ("/v1/audio/speech", {"model": "tts-1", "input": "cut \ud83d", "seconds": 1}, ("tts-1", {"characters": 5})),
        ("/v1/images/generations", {"n": "many", "model": 7, "size": 9}, (None, {"images": 1})),
        ("/v1/audio/speech", {"input": ["no", "text"], "model": "a\x00b"}, (None, {})),
    ],
)
def test_json_tells_what_was_asked(endpoint, body, asked):
    assert read_asked(endpoint, json.dumps(body).encode()) == asked


def test_a_form_tells_what_was_asked_wherever_it_stands():
    body = form({"model": "gpt-4o-transcribe", "n": "2", "size": "512x512"})

    assert read_asked("/v1/audio/transcriptions", body)[0] == "gpt-4o-transcribe"
    assert read_asked("/v1/images/edits", body) == ("gpt-4o-transcribe", {"images": 2, "size": "512x512"})


def test_a_file_is_no_field():
    assert read_asked("/v1/audio/transcriptions", form({}, {"model": ("m.txt", b"gpt-5")})) == (None, {})


def test_a_form_of_very_many_parts_is_not_read_to_its_end():
    body = form([("x", "1")] * 100 + [("model", "gpt-5")])

    assert read_asked("/v1/audio/transcriptions", body)[0] is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b"--", b"--b\r\n", b"--b\r\nno header\r\n\r\nx\r\n--b--", b"{"]
)
def test_a_body_that_is_neither_tells_nothing(body):
    assert read_asked("/v1/chat/completions", body) == (None, {})


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_are_too_odd(noise, at):
    body = form({"model": "gpt-5"})

    read_asked("/v1/audio/transcriptions", body[:at] + noise + body[at:])
    read_asked("/v1/images/edits", noise)


def test_a_form_with_a_boundary_beyond_any_tells_nothing():
    boundary = b"x" * 71
    form = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--%b--\r\n'

    assert read_asked("/v1/audio/transcriptions", form % (boundary, boundary)) == (None, {})
    assert read_asked("/v1/audio/transcriptions", form % (boundary[1:], boundary[1:])) == ("whisper-1", {})
