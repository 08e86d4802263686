"""Usage out of a server's frames: fragmented, compressed, large, broken, and added up."""

import json
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from llmproxy.observe.usage import MAX_EVENT_BYTES, UsageObserver
from llmproxy.websocket.usage import observe_session

DEFLATE = "permessage-deflate; server_max_window_bits=12"
USAGE = {
    "total_tokens": 30, "input_tokens": 20, "output_tokens": 10,
    "input_token_details": {"text_tokens": 12, "audio_tokens": 8, "cached_tokens": 4},
    "output_token_details": {"text_tokens": 3, "audio_tokens": 7},
}  # fmt: skip
SUM = {
    "prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60,
    "prompt_tokens_details": {"text_tokens": 24, "audio_tokens": 16, "cached_tokens": 8},
    "completion_tokens_details": {"text_tokens": 6, "audio_tokens": 14},
}  # fmt: skip
SESSION = {"type": "session.created", "session": {"id": "sess_1", "model": "gpt-realtime"}}
DELTA = {"type": "response.output_audio.delta", "delta": "AAAA" * 100}


def done(usage: Any = USAGE, kind: str = "response.done", **more: Any) -> dict[str, Any]:
    return {"type": kind, "response": {"id": "resp_1", "usage": usage, **more}}


def sent(*events: Any, extensions: str | None = None, fragment: int | None = None) -> bytes:
    """A server's frames for these events; a str or bytes goes as it is."""
    negotiated = []
    if extensions:
        deflate = PerMessageDeflate()
        deflate.finalize(extensions)
        negotiated.append(deflate)
    protocol = FrameProtocol(client=False, extensions=negotiated)
    data = b""
    for event in events:
        message = event if isinstance(event, str | bytes) else json.dumps(event)
        step = fragment or len(message) or 1
        starts = range(0, len(message), step)
        for start in starts:
            data += protocol.send_data(message[start : start + step], fin=start == starts[-1])
            data += protocol.ping(b"usage") if fragment else b""
    return data


def observed(
    *events: Any, extensions: str | None = None, fragment: int | None = None, step: int = 0
) -> UsageObserver:
    observer = observe_session(extensions)
    data = sent(*events, extensions=extensions, fragment=fragment)
    for start in range(0, len(data), step or len(data)):
        observer.feed(data[start : start + (step or len(data))])
    observer.finish()
    return observer


@pytest.mark.parametrize("extensions", [None, DEFLATE, "permessage-deflate; server_no_context_takeover"])
@pytest.mark.parametrize("fragment", [None, 7])
@pytest.mark.parametrize("step", [0, 1, 5])
def test_the_usage_of_all_responses_is_added_up(extensions, fragment, step):
    events = (SESSION, DELTA, done(), DELTA, done())
    observer = observed(*events, extensions=extensions, fragment=fragment, step=step)

    assert observer.metadata == {**SUM, "model": "gpt-realtime"}
    assert (observer.usage_source, observer.is_stream, observer.error) == ("reported", True, None)


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_responses_of_the_responses_api_count_too_and_name_their_model(kind):
    observer = observed(
        done(None, "response.created", model="gpt-5"), done(kind=kind, model="gpt-5"), done(kind=kind)
    )

    assert observer.metadata["total_tokens"] == 60
    assert observer.metadata["model"] == "gpt-5"


def test_an_event_that_is_not_the_end_of_a_response_does_not_count():
    observer = observed(done(kind="response.in_progress"), {"type": "x", "usage": USAGE})

    assert (observer.metadata, observer.usage_source) == (None, "absent")


def transcribed(**usage):
    return {"type": "conversation.item.input_audio_transcription.completed", "usage": usage}


def test_transcriptions_count_where_there_is_nothing_else():
    heard = transcribed(type="tokens", input_tokens=3, output_tokens=2, total_tokens=5)

    assert observed(heard, heard).metadata["total_tokens"] == 10
    assert observed(heard, done(), heard).metadata["total_tokens"] == 30
    assert observed(transcribed(type="duration", seconds=1.5), transcribed(seconds=2)).metadata == {"seconds": 3.5}


def hearing(model, *, form="audio"):
    """What a session says when it is told to transcribe its caller."""
    heard = {"model": model, "language": "en"}
    of_today = {"audio": {"input": {"transcription": heard}}}
    return {
        "type": "session.updated",
        "session": of_today if form == "audio" else {"input_audio_transcription": heard},
    }


def priced(*events):
    """Model, tokens and tier of each response, as they were told one by one."""
    told = []
    responses = SimpleNamespace(begun=lambda: None, over=told.append, heard=told.append, close=lambda: None)
    observer = observe_session(None, responses=responses)
    observer.feed(sent(*events))
    observer.finish()
    return [(one.model, (one.usage or {}).get("total_tokens"), one.service_tier) for one in told]


def test_each_response_is_told_by_itself_with_its_model():
    named = done(kind="response.completed", model="gpt-5", service_tier="flex")

    assert priced(SESSION, done(), named, done()) == [
        ("gpt-realtime", 30, None),
        ("gpt-5", 30, "flex"),
        ("gpt-5", 30, None),
    ]


@pytest.mark.parametrize("form", ["audio", "older"])
def test_a_transcription_has_the_model_that_the_session_was_told_to_hear_with(form):
    heard = transcribed(type="tokens", input_tokens=3, output_tokens=2, total_tokens=5)

    assert priced(SESSION, heard, hearing("whisper-1", form=form), heard, done()) == [
        (None, 5, None),
        ("whisper-1", 5, None),
        ("gpt-realtime", 30, None),
    ]


def test_a_response_that_told_no_usage_is_told_of_too():
    assert priced(SESSION, done(usage=None, error={"code": "x"}), done()) == [
        ("gpt-realtime", None, None),
        ("gpt-realtime", 30, None),
    ]


def test_calls_of_tools_are_added_up():
    item = {"type": "function_call", "name": "f"}
    metadata = observed(SESSION, done(output=[item]), done(output=[item, item])).metadata

    assert metadata["tool_calls"] == {"function": 3}


def test_a_finished_observer_knows_no_call_any_more():
    class Responses:
        def close(self): ...

    responses = Responses()
    observer = observe_session(None, responses=responses)
    gone = weakref.ref(responses)
    observer.finish()
    del responses

    assert gone() is None


def test_an_error_that_the_upstream_reports_is_told():
    error = {"type": "error", "error": {"type": "invalid_request_error", "code": "invalid_value", "message": "sk-x"}}

    assert observed(SESSION, error).error == {"code": "invalid_value", "type": "invalid_request_error"}


@pytest.mark.parametrize("extensions", [None, DEFLATE])
def test_a_message_of_any_size_is_read_in_parts(extensions):
    words = "words, " * (MAX_EVENT_BYTES // 4) if extensions is None else json.dumps(list(range(300_000)))
    large = done(output=[{"transcript": words}])
    assert len(json.dumps(large)) > MAX_EVENT_BYTES
    observer = observed(SESSION, large, done(), extensions=extensions, step=65536)

    assert observer.metadata["total_tokens"] == 60


def test_binary_messages_are_passed_over():
    assert observed(json.dumps(done()).encode(), done()).metadata["total_tokens"] == 30


@pytest.mark.parametrize(
    "after",
    [
        b"\xff" * 100,
        b"\x81\x85\x00\x00\x00\x00hello",
        b"\x81\x02\xff\xfe",
    ],
    ids=["no frame", "masked", "no text"],
)
def test_whatever_comes_what_was_told_before_stays(after):
    observer = observe_session(None)
    observer.feed(sent(SESSION, done()))
    observer.feed(after)
    observer.feed(sent(done()))
    observer.finish()

    assert observer.metadata["total_tokens"] == 30


def test_a_bomb_ends_the_observing():
    observer = observe_session(DEFLATE)
    observer.feed(sent(done(), extensions=DEFLATE))
    observer.feed(sent(" " * 50_000_000, done(), extensions=DEFLATE))

    assert observer.metadata["total_tokens"] == 30
    assert observer._body is None


@pytest.mark.parametrize(
    "extensions",
    [
        "x-unknown",
        "permessage-deflate, x-unknown",
        "permessage-deflate; server_max_window_bits=99",
        "permessage-deflate; server_max_window_bits=x",
    ],
)
def test_an_extension_that_we_cannot_undo_is_not_looked_into(extensions):
    observer = observe_session(extensions)
    observer.feed(sent(done()))
    observer.finish()

    assert (observer.metadata, observer.is_stream) == (None, True)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_can_make_it_fail(pieces: list[bytes]) -> None:
    for extensions in (None, DEFLATE):
        observer = observe_session(extensions)
        for piece in pieces:
            observer.feed(piece)
        observer.finish()


@pytest.mark.parametrize(
    "odd",
    [
        '{not json, but usage: "usage": 1}',
        '{"type": ["response.done"], "usage": {}}',
        '{"type": {"a": 1}, "error": 1}',
        '["usage"]',
        '{"usage": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type": "response.done", "response": {"usage": NaN}}',
        '{"type": "response.done", "response": {"usage": {"total_tokens": "\\ud83d"}}}',
    ],
)
def test_one_odd_message_takes_nothing_along(odd):
    observer = observe_session(None)
    observer.feed(sent(SESSION, done(), odd, done()))
    observer.finish()

    assert observer.metadata["total_tokens"] == 60


def test_an_error_that_the_session_outlives_is_no_failure_of_it():
    observer = observe_session(None)
    observer.feed(sent(SESSION, '{"type": "error", "error": {"code": "bad_event"}}'))
    assert observer.has_failed

    observer.feed(sent(done()))
    assert not observer.has_failed
    assert observer.error == {"code": "bad_event", "type": None}


def test_a_response_that_failed_last_is_a_failure():
    failed = {
        "status": "failed",
        "status_details": {"error": {"type": "server_error", "code": "boom"}},
        "usage": None,
    }
    observer = observe_session(None)
    observer.feed(sent(SESSION, done(), json.dumps({"type": "response.done", "response": failed})))
    observer.finish()

    assert (observer.has_failed, observer.error) == (True, {"code": "boom", "type": "server_error"})
