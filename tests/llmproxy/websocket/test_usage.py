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

from llmproxy.observe.facts import Facts
from llmproxy.observe.usage import MAX_EVENT_BYTES, UsageObserver
from llmproxy.websocket.usage import observe_session

DEFLATE = "permessage-deflate; server_max_window_bits=12"
USAGE = {
    "total_tokens": 30, "input_tokens": 20, "output_tokens": 10,
    "input_token_details": {"text_tokens": 12, "audio_tokens": 8, "cached_tokens": 4},
    "output_token_details": {"text_tokens": 3, "audio_tokens": 7},
}  # fmt: skip
TOLD = {
    "prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30,
    "prompt_tokens_details": {"text_tokens": 12, "audio_tokens": 8, "cached_tokens": 4},
    "completion_tokens_details": {"text_tokens": 3, "audio_tokens": 7},
    "model": "gpt-realtime",
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


class Responses:
    """Keeps what it is told of each."""

    def __init__(self) -> None:
        self.over: list[Facts] = []
        self.begun_count = 0
        self.is_closed = False

    def begun(self) -> None:
        self.begun_count += 1

    def take(self, told: Facts) -> None:
        self.over.append(told)

    def close(self) -> None:
        self.is_closed = True

    @property
    def tokens(self) -> list[int | None]:
        return [(told.usage or {}).get("total_tokens") for told in self.over]


def watched(responses: Responses, extensions: str | None = None) -> UsageObserver:
    told = SimpleNamespace(
        begun=responses.begun,
        over=responses.take,
        heard=responses.take,
        failed=lambda _: None,
        close=responses.close,
    )
    return observe_session(extensions, responses=told)


def observed(
    *events: Any, extensions: str | None = None, fragment: int | None = None, step: int = 0
) -> tuple[UsageObserver, Responses]:
    responses = Responses()
    observer = watched(responses, extensions)
    data = sent(*events, extensions=extensions, fragment=fragment)
    for start in range(0, len(data), step or len(data)):
        observer.feed(data[start : start + (step or len(data))])
    observer.finish()
    assert responses.is_closed
    return observer, responses


@pytest.mark.parametrize("extensions", [None, DEFLATE, "permessage-deflate; server_no_context_takeover"])
@pytest.mark.parametrize("fragment", [None, 7])
@pytest.mark.parametrize("step", [0, 1, 5])
def test_each_response_tells_its_usage_and_the_session_none(extensions, fragment, step):
    events = (SESSION, DELTA, done(), DELTA, done())
    observer, responses = observed(*events, extensions=extensions, fragment=fragment, step=step)

    assert [told.metadata() for told in responses.over] == [TOLD, TOLD]
    assert observer.facts.metadata() == {"model": "gpt-realtime"}
    assert (observer.facts.usage_source, observer.is_stream, observer.facts.error) == ("absent", True, None)


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_responses_of_the_responses_api_count_too_and_name_their_model(kind):
    observer, responses = observed(
        done(None, "response.created", model="gpt-5"), done(kind=kind, model="gpt-5"), done(kind=kind)
    )

    assert (responses.begun_count, responses.tokens) == (1, [30, 30])
    assert [told.model for told in responses.over] == ["gpt-5", "gpt-5"] and observer.facts.model == "gpt-5"


def test_an_event_that_is_not_the_end_of_a_response_does_not_count():
    observer, responses = observed(done(kind="response.in_progress"), {"type": "x", "usage": USAGE})

    assert (observer.facts.metadata(), responses.over) == (None, [])


def transcribed(**usage):
    return {"type": "conversation.item.input_audio_transcription.completed", "usage": usage}


def test_what_was_heard_is_told_beside_the_responses():
    heard = transcribed(type="tokens", input_tokens=3, output_tokens=2, total_tokens=5)

    assert observed(heard, done(), heard)[1].tokens == [5, 30, 5]
    assert [told.metadata() for told in observed(transcribed(type="duration", seconds=1.5))[1].over] == [
        {"seconds": 1.5}
    ]


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
    _, responses = observed(*events)
    return [(one.model, (one.usage or {}).get("total_tokens"), one.service_tier) for one in responses.over]


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


def test_calls_of_tools_are_told_with_their_response():
    item = {"type": "function_call", "name": "f"}
    _, responses = observed(SESSION, done(output=[item]), done(output=[item, item]))

    assert [told.units["tool_calls"] for told in responses.over] == [{"function": 1}, {"function": 2}]


def test_a_finished_observer_knows_no_call_any_more():
    responses = Responses()
    observer = observe_session(None, responses=responses)
    gone = weakref.ref(responses)
    observer.finish()
    del responses

    assert gone() is None


def test_an_error_that_the_upstream_reports_is_told():
    error = {"type": "error", "error": {"type": "invalid_request_error", "code": "invalid_value", "message": "sk-x"}}

    assert observed(SESSION, error)[0].facts.error == {"code": "invalid_value", "type": "invalid_request_error"}


@pytest.mark.parametrize("extensions", [None, DEFLATE])
def test_a_message_of_any_size_is_read_in_parts(extensions):
    words = "words, " * (MAX_EVENT_BYTES // 4) if extensions is None else json.dumps(list(range(300_000)))
    large = done(output=[{"transcript": words}])
    assert len(json.dumps(large)) > MAX_EVENT_BYTES
    _, responses = observed(SESSION, large, done(), extensions=extensions, step=65536)

    assert responses.tokens == [30, 30]


def test_binary_messages_are_passed_over():
    assert observed(json.dumps(done()).encode(), done())[1].tokens == [30]


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
    responses = Responses()
    observer = watched(responses)
    observer.feed(sent(SESSION, done()))
    observer.feed(after)
    observer.feed(sent(done()))
    observer.finish()

    assert responses.tokens == [30]


def test_a_bomb_ends_the_observing():
    responses = Responses()
    observer = watched(responses, DEFLATE)
    observer.feed(sent(done(), extensions=DEFLATE))
    observer.feed(sent(" " * 50_000_000, done(), extensions=DEFLATE))

    assert responses.tokens == [30]
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

    assert (observer.facts.metadata(), observer.is_stream) == (None, True)


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
    assert observed(SESSION, done(), odd, done())[1].tokens[-1] == 30


def test_an_error_that_the_session_outlives_is_no_failure_of_it():
    observer = observe_session(None)
    observer.feed(sent(SESSION, '{"type": "error", "error": {"code": "bad_event"}}'))
    assert observer.facts.has_failed

    observer.feed(sent(done()))
    assert not observer.facts.has_failed
    assert observer.facts.error == {"code": "bad_event", "type": None}


def test_a_response_that_failed_is_no_failure_of_its_session():
    failed = {
        "status": "failed",
        "status_details": {"error": {"type": "server_error", "code": "boom"}},
        "usage": None,
    }
    failing = json.dumps({"type": "response.done", "response": failed})
    observer, responses = observed(SESSION, done(), failing)

    assert [(told.has_failed, told.error) for told in responses.over] == [
        (False, None),
        (True, {"code": "boom", "type": "server_error"}),
    ]
    assert (observer.facts.has_failed, observer.facts.error) == (False, None)
