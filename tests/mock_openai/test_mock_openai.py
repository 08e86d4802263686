"""The mock upstream is only worth something if OpenAI's own client believes it, and if its faults are real ones."""

import gzip
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import brotli
import openai
import pytest
import requests
import trustme
from backports import zstd

from mock_openai.mock import MockOpenAI
from mock_openai.shapes import binary_pieces

KEY = "sk-test"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
MESSAGES = CHAT["messages"]
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
TEXT = "Tokens wither, calls pass"


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {KEY}"
        yield session


@pytest.fixture
def client(mock) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{mock.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def post(mock, session):
    def send(body=CHAT, path="/v1/chat/completions", **controls):
        headers = {f"x-mock-{name.replace('_', '-')}": str(value) for name, value in controls.items()}
        return session.post(mock.url + path, json=body, headers=headers, allow_redirects=False, timeout=60)

    return send


class RawClient:
    """A socket that speaks HTTP by hand."""

    def __init__(self, mock: MockOpenAI) -> None:
        place = urlsplit(mock.url)
        self.sock = socket.create_connection((place.hostname, place.port), timeout=60)
        self.received = b""

    def send(self, head: str, body: bytes = b"") -> None:
        self.sock.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.received:
            piece = self.sock.recv(65536)
            assert piece, f"closed before {mark!r} came: {self.received!r}"
            self.received += piece
        before, found, self.received = self.received.partition(mark)
        return before + found

    def read_all(self) -> bytes:
        while piece := self.sock.recv(65536):
            self.received += piece
        return self.received

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def raw(mock) -> Iterator[RawClient]:
    client = RawClient(mock)
    yield client
    client.close()


def chat_head(*lines: str, body: object = CHAT) -> tuple[str, bytes]:
    data = json.dumps(body).encode()
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: mock",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        *lines,
    ]
    return "\n".join(head), data


# --- the official client believes it --------------------------------------------------------------------------


def test_chat_completion_parses(client):
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)

    assert answer.choices[0].message.content == TEXT
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (12, 7, 19)
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


def test_chat_stream_has_a_usage_chunk_only_when_asked(client):
    def chunks(**options):
        return list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True, **options))

    plain = chunks()
    asked = chunks(stream_options={"include_usage": True})

    assert "".join(c.choices[0].delta.content or "" for c in plain) == TEXT
    assert all("usage" not in c.model_fields_set for c in plain)
    assert [c.usage is not None for c in asked] == [False] * 7 + [True]
    assert all("usage" in c.model_fields_set for c in asked)
    assert asked[-1].choices == [] and asked[-1].usage.total_tokens == 19


def test_legacy_completions_parse_both_ways(client):
    whole = client.completions.create(model="m", prompt="Hi")
    chunks = list(
        client.completions.create(model="m", prompt="Hi", stream=True, stream_options={"include_usage": True})
    )

    assert whole.choices[0].text == TEXT == "".join(c.choices[0].text for c in chunks if c.choices)
    assert whole.usage == chunks[-1].usage


def test_responses_parse(client):
    answer = client.responses.create(model="gpt-4.1-mini", input="Hi")

    assert answer.status == "completed" and answer.output_text == TEXT
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (12, 7, 19)


@pytest.mark.parametrize(
    ("ending", "last", "has_usage"),
    [("complete", "completed", True), ("incomplete", "incomplete", True), ("failed", "failed", False)],
)
def test_a_responses_stream_ends_as_asked(client, ending, last, has_usage):
    stream = client.responses.create(
        model="gpt-4.1-mini", input="Hi", stream=True, extra_headers={"x-mock-ending": ending}
    )
    events = list(stream)

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == f"response.{last}"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TEXT
    assert events[-1].response.status == last
    assert (events[-1].response.usage is not None) is has_usage


def test_the_helpers_of_the_official_client_accept_both_streams(client):
    with client.responses.stream(model="gpt-4.1-mini", input="Hi") as stream:
        assert stream.get_final_response().output_text == TEXT
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == TEXT


def test_embeddings_agree_as_floats_and_as_base64(client):
    plain = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], encoding_format="float")
    packed = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])

    assert [row.index for row in plain.data] == [0, 1]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert plain.usage.total_tokens == 12


def test_models_parse(client):
    assert "gpt-4o-mini" in [model.id for model in client.models.list()]
    assert client.models.retrieve("ft:gpt/x").id == "ft:gpt/x"


def test_moderation_parses(client):
    answer = client.moderations.create(input=["a", "b"])

    assert [result.flagged for result in answer.results] == [False, False]
    assert answer.results[0].category_scores.self_harm_intent == 0.0001


def test_images_parse_both_ways(client):
    whole = client.images.generate(model="gpt-image-1", prompt="a leaf")
    events = list(client.images.generate(model="gpt-image-1", prompt="a leaf", stream=True, partial_images=2))

    assert whole.data[0].b64_json and whole.usage.total_tokens == 100
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image", "partial_image", "completed"]
    assert events[-1].usage.input_tokens_details.image_tokens == 40


def test_transcriptions_report_tokens_or_seconds(client):
    sound = ("speech.wav", b"RIFF" * 100)
    tokens = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound)
    seconds = client.audio.transcriptions.create(model="whisper-1", file=sound)
    events = list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound, stream=True))
    text = client.audio.transcriptions.create(model="whisper-1", file=sound, response_format="text")

    assert tokens.text == TEXT and tokens.usage.type == "tokens" and tokens.usage.total_tokens == 17
    assert seconds.usage.type == "duration" and seconds.usage.seconds == 9
    assert events[-1].type == "transcript.text.done" and events[-1].usage.output_tokens == 5
    assert text.strip() == TEXT


def test_speech_is_bytes(client):
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input="Hi", extra_headers={"x-mock-size": "70000"}
    )

    assert answer.content == b"".join(binary_pieces(70000)) and len(answer.content) == 70000


def test_files_live_through_upload_download_and_delete(mock, client):
    data = os.urandom(3 * 1024 * 1024 + 1)
    made = client.files.create(file=("data.jsonl", data), purpose="batch")
    seen = mock.last_request()
    content = client.files.with_raw_response.content(made.id, extra_headers={"x-mock-size": "100"})

    assert (made.bytes, made.filename, made.purpose) == (len(data), "data.jsonl", "batch")
    assert seen["files"][0]["sha256"] == hashlib.sha256(data).hexdigest()
    assert content.content == b"".join(binary_pieces(100))
    assert client.files.retrieve(made.id).id == made.id
    assert client.files.delete(made.id).deleted
    assert client.files.list().data == []


def test_batches_parse(client):
    made = client.batches.create(input_file_id="file-1", endpoint="/v1/responses", completion_window="24h")
    done = client.batches.retrieve("batch_1")

    assert made.status == "validating" and made.usage is None
    assert done.status == "completed" and done.usage.total_tokens == 19
    assert [batch.id for batch in client.batches.list()] == ["batch_mock"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_errors_raise_what_openai_would_make_the_client_raise(client, status, error):
    with pytest.raises(error) as raised:
        client.chat.completions.create(model="m", messages=MESSAGES, extra_headers={"x-mock-status": str(status)})

    assert raised.value.status_code == status and raised.value.type
    assert raised.value.request_id.startswith("req_")


def test_an_error_in_the_middle_of_a_chat_stream_reaches_the_caller(client):
    stream = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, extra_headers={"x-mock-ending": "failed"}
    )

    with pytest.raises(openai.APIError, match="had an error"):
        list(stream)


def test_the_client_retries_after_the_time_it_is_told(mock):
    headers = {"x-mock-status": "429", "x-mock-retry-after-ms": "1", "x-mock-once": "a"}
    with openai.OpenAI(api_key=KEY, base_url=f"{mock.url}/v1", max_retries=1) as client:
        client.chat.completions.create(model="m", messages=MESSAGES, extra_headers=headers)

    assert [dict(r["headers"])["x-stainless-retry-count"] for r in mock.requests()] == ["0", "1"]


# --- who may call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "Basic c2stOg==", "Bearer pk-other"])
def test_only_keys_are_let_in(mock, session, authorization):
    session.headers["Authorization"] = authorization

    answer = session.get(f"{mock.url}/v1/models", timeout=60)

    assert answer.status_code == 401 and answer.json()["error"]["type"] == "invalid_request_error"


def test_with_an_api_key_given_no_other_is_let_in(session):
    with MockOpenAI(api_key="sk-right") as mock:
        wrong = session.get(f"{mock.url}/v1/models", timeout=60)
        session.headers["Authorization"] = "Bearer sk-right"
        right = session.get(f"{mock.url}/v1/models", timeout=60)

    assert (wrong.status_code, right.status_code) == (401, 200)
    assert wrong.json()["error"]["code"] == "invalid_api_key" and "sk-test" not in wrong.text


# --- heads and bodies -----------------------------------------------------------------------------------------


def test_equal_requests_get_equal_answers_under_their_own_ids(post):
    first, second, other = post(), post(), post({**CHAT, "seed": 1})

    assert first.content == second.content != other.content
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_forms_that_differ_only_in_their_boundary_get_equal_answers(mock, session):
    def upload():
        form = {"file": ("a.txt", b"a")}
        return session.post(f"{mock.url}/v1/files", files=form, data={"purpose": "batch"}, timeout=60)

    assert upload().content == upload().content
    first, second = mock.requests()
    assert first["body_sha256"] != second["body_sha256"]


def test_a_head_looks_like_one_of_openai(mock):
    connection = http.client.HTTPConnection(urlsplit(mock.url).netloc, timeout=60)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    answer = connection.getresponse()
    answer.read()
    names = [name.lower() for name, _ in answer.getheaders()]
    repeats = [value for name, value in answer.getheaders() if name == "x-repeat"]
    connection.close()

    assert repeats == ["first", "second"] and names.count("set-cookie") == 2
    assert {
        *("openai-organization", "openai-processing-ms", "openai-version", "x-ratelimit-limit-requests"),
        *("alt-svc", "strict-transport-security"),
    } <= set(names)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, None),
        ("GET", "/v1/embeddings", 405, "method_not_supported"),
        ("GET", "/", 404, None),
    ],
)
def test_unknown_routes_are_refused_in_openais_shape(mock, session, method, path, status, code):
    answer = session.request(method, mock.url + path, timeout=60)

    assert answer.status_code == status and answer.json()["error"]["code"] == code


def test_bad_bodies_are_refused(mock, session):
    json_type, form_type = "application/json", "multipart/form-data; boundary=b"
    answers = [
        session.post(f"{mock.url}/v1/chat/completions", data=data, headers={"Content-Type": type_}, timeout=60)
        for data, type_ in [(b"{", json_type), (b"[1]", json_type), (b"{}", json_type), (b"no form", form_type)]
    ]

    assert [answer.status_code for answer in answers] == [400] * 4


def test_any_method_may_be_echoed_with_its_raw_target(mock, raw):
    raw.send(f"PATCH /v1/echo/a%2Fb/..//c?x=%7e&x HTTP/1.1\nHost: m\nAuthorization: Bearer {KEY}")
    raw.read_until(b'"target":"/v1/echo/a%2Fb/..//c?x=%7e&x"')

    assert mock.last_request()["target"] == "/v1/echo/a%2Fb/..//c?x=%7e&x"


def test_head_gets_the_length_and_no_body(raw):
    raw.send(f"HEAD /v1/models HTTP/1.1\nHost: m\nConnection: close\nAuthorization: Bearer {KEY}")
    head = raw.read_until(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ") and b"Content-Length: 0" not in head and b"Content-Length: " in head
    assert raw.read_all() == b""


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body_have_none(raw, status):
    raw.send(*chat_head(f"x-mock-status: {status}", "Connection: close"))
    head = raw.read_until(b"\r\n\r\n")

    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"content-length" not in head.lower() and b"transfer-encoding" not in head.lower()
    assert raw.read_all() == b""


@pytest.mark.parametrize("size", [700, 1_000_000])
def test_json_grows_to_the_size_asked_for(post, size):
    answer = post(size=size)

    assert len(answer.content) == size and list(answer.json())[-1] == "system_fingerprint"


def test_redirects_and_headers_are_what_was_asked_for(post):
    answer = post(redirect="http://elsewhere.test/x", status=307, header="x-odd: 1")

    assert (answer.status_code, answer.headers["location"]) == (307, "http://elsewhere.test/x")
    assert answer.headers["x-odd"] == "1"


def test_a_misspelt_control_is_refused(post):
    answer = post(sttus=500)

    assert answer.status_code == 400 and "sttus" in answer.json()["error"]["message"]


# --- framing and compression ----------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_every_framing_carries_the_same_body(post, framing, body):
    plain, framed = post(body), post(body, framing=framing)

    assert framed.content == plain.content
    marks = {name: name in framed.headers for name in ("transfer-encoding", "content-length")}
    assert marks == {"transfer-encoding": framing == "chunked", "content-length": framing == "length"}


DECODERS = {"gzip": gzip.decompress, "deflate": zlib.decompress, "br": brotli.decompress, "zstd": zstd.decompress}


@pytest.mark.parametrize("encoding", DECODERS)
@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_every_encoding_carries_the_same_body(mock, session, post, encoding, framing, body):
    headers = {"x-mock-encoding": encoding, "x-mock-framing": framing}
    url = f"{mock.url}/v1/chat/completions"
    with session.post(url, json=body, headers=headers, stream=True, timeout=60) as packed:
        data = packed.raw.read(decode_content=False)

    assert packed.headers["content-encoding"] == encoding
    assert DECODERS[encoding](data) == post(body).content


def test_events_can_be_sent_in_small_pieces(raw):
    raw.send(*chat_head("x-mock-event-split: 7", "Connection: close", body=STREAM))
    raw.read_until(b"\r\n\r\n")
    sizes = []
    while size := int(raw.read_until(b"\r\n"), 16):
        raw.read_until(b"\r\n")
        sizes.append(size)

    assert max(sizes) == 7


def test_an_informational_answer_may_come_first_and_a_trailer_last(raw):
    raw.send(*chat_head("x-mock-informational: 103", "x-mock-trailer: 1", "Connection: close", body=STREAM))

    assert raw.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"Trailer: x-mock-trailer\r\n" in raw.read_until(b"\r\n\r\n")
    assert raw.read_all().endswith(b"0\r\nx-mock-trailer: done\r\n\r\n")


def test_stamped_events_carry_their_send_time_and_parse_as_before(client, post):
    answer = post(STREAM, stamp=1)
    comments = [line for line in answer.text.splitlines() if line.startswith(": sent_ns=")]
    stamps = [int(line.split()[1].removeprefix("sent_ns=")) for line in comments]
    chunks = list(
        client.chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_headers={"x-mock-stamp": "1"})
    )

    assert stamps == sorted(stamps)
    assert [line.split(" ", 2)[2] for line in comments] == [f"event={n:06} of=000009" for n in range(9)]
    assert int(answer.headers["x-mock-sent-ns"]) <= stamps[0]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_pings_stand_before_every_event_and_are_none(client, post, framing):
    answer = post(STREAM, ping=1, framing=framing)
    headers = {"x-mock-ping": "1", "x-mock-framing": framing}
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True, extra_headers=headers))

    assert answer.text.split("\n\n")[:-1:2] == [": ping"] * 9
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


def test_http_1_0_is_never_sent_chunks(raw):
    head, body = chat_head(body=STREAM)
    raw.send(head.replace("HTTP/1.1", "HTTP/1.0"), body)

    assert b"chunked" not in raw.read_until(b"\r\n\r\n")
    assert raw.read_all().endswith(b"data: [DONE]\n\n")


# --- requests as they came ------------------------------------------------------------------------------------


def test_the_ledger_shows_headers_as_sent(mock, raw):
    raw.send(*chat_head("X-Twice: a", "x-twice:  b ", "Connection: close"))
    raw.read_all()
    seen = mock.last_request()

    assert [pair for pair in seen["headers"] if pair[0].lower() == "x-twice"] == [["X-Twice", "a"], ["x-twice", "b"]]
    assert (seen["json"], seen["outcome"], seen["turn"]) == (CHAT, "answered", 1)


def test_chunked_bodies_are_counted_and_hashed_and_their_trailers_kept(mock, raw):
    raw.send(
        f"POST /v1/echo HTTP/1.1\nHost: m\nTransfer-Encoding: chunked\nAuthorization: Bearer {KEY}",
        b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    raw.read_until(b'"body_length":7')
    seen = mock.last_request()

    assert seen["body_sha256"] == hashlib.sha256(b"abcdefg").hexdigest()
    assert seen["trailers"] == [["X-Sum", "7"]]


def test_a_client_that_expects_100_continue_gets_it_before_it_sends_its_body(raw):
    head, body = chat_head("Expect: 100-continue", "Connection: close")
    raw.send(head)
    assert raw.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    raw.sock.sendall(body)

    assert raw.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_pipelined_requests_are_answered_in_order(raw):
    for number in (1, 2):
        raw.send(f"GET /v1/echo/{number} HTTP/1.1\nHost: m\nAuthorization: Bearer {KEY}")

    raw.read_until(b'"target":"/v1/echo/1"')
    raw.read_until(b'"target":"/v1/echo/2"')


def test_a_request_sent_while_an_answer_waits_is_not_lost(mock, raw):
    raw.send(*chat_head("x-mock-gate: early-bird"))
    mock.wait_for("answering")
    raw.send(f"GET /v1/echo HTTP/1.1\nHost: m\nAuthorization: Bearer {KEY}")
    mock.release("early-bird")

    raw.read_until(b'"target":"/v1/echo"')


def test_what_is_no_http_gets_400_and_the_connection_closed(raw):
    raw.send("what is this")

    assert raw.read_all().startswith(b"HTTP/1.1 400 ")


def test_a_connection_is_kept_for_the_next_request(lonely_mock, session):
    for _ in range(2):
        session.post(f"{lonely_mock.url}/v1/chat/completions", json=CHAT, timeout=60)

    assert [request["turn"] for request in lonely_mock.requests()] == [1, 2]
    lonely_mock.wait_for_open_connections(1)
    assert lonely_mock.connections() == {"open": 1, "accepted": 1}


# --- gates, silence and cuts ----------------------------------------------------------------------------------


def test_a_gated_stream_sends_one_event_per_release(mock, client):
    stream = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, extra_headers={"x-mock-gate": "g", "x-mock-events": "2"}
    )
    events = iter(stream)
    assert next(events).choices[0].delta.content == ""
    assert mock.last_request()["pieces_sent"] == 1
    mock.release("g")
    assert next(events).choices[0].delta.content == "Tokens"
    assert mock.last_request()["pieces_sent"] == 2
    mock.release("g", count=3)

    assert [event.choices[0].finish_reason for event in events] == [None, "stop"]


@pytest.mark.parametrize("control", ["x-mock-hold: 1", "x-mock-delay-ms: 60000"])
def test_a_client_that_leaves_while_it_waits_is_noticed(mock, raw, control):
    raw.send(*chat_head(control))
    mock.wait_for("waiting")
    raw.close()

    assert mock.wait_for("client_gone")["client_closed_early"]


@pytest.mark.parametrize("control", ["x-mock-gate: shut", "x-mock-gap-ms: 60000", "x-mock-hang-after: 1"])
def test_a_client_that_leaves_in_mid_stream_is_noticed(mock, raw, control):
    raw.send(*chat_head(control, body=STREAM))
    raw.read_until(b"data: ")
    raw.close()

    assert mock.wait_for("client_gone")["pieces_sent"] == 1


def test_a_client_that_leaves_in_mid_upload_is_noticed(mock, raw):
    head, body = chat_head()
    raw.send(head, body[:5])
    mock.wait_for("receiving")
    raw.close()
    seen = mock.wait_for("client_gone")

    assert (seen["body_length"], seen["body_complete"]) == (5, False)


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("body", [CHAT, STREAM])
def test_a_cut_answer_never_looks_complete(mock, post, framing, body):
    with pytest.raises(requests.exceptions.RequestException):
        post(body, framing=framing, cut_after=1)

    assert mock.wait_for("cut")["pieces_sent"] == 1


def test_a_reset_is_a_reset(raw):
    raw.send(*chat_head("x-mock-cut-after: 1", "x-mock-cut-with: reset"))

    with pytest.raises(ConnectionResetError):
        raw.read_all()


def test_a_dropped_request_gets_no_byte_and_once_means_once(mock, raw, post):
    raw.send(*chat_head("x-mock-drop: 1", "x-mock-once: d"))

    assert raw.read_all() == b""
    assert post(drop=1, once="d").status_code == 200
    assert [request["outcome"] for request in mock.requests()] == ["cut", "answered"]


def test_a_connection_can_close_after_it_promised_to_stay(lonely_mock):
    raw = RawClient(lonely_mock)
    raw.send(*chat_head("x-mock-close-idle: 1"))
    head = raw.read_until(b"\r\n\r\n")
    raw.read_all()
    lonely_mock.wait_for_open_connections(0)
    raw.close()

    assert b"Connection: keep-alive" in head


def test_an_early_answer_does_not_wait_for_the_body(mock, raw):
    head, body = chat_head("x-mock-early: 1", "x-mock-status: 413")
    raw.send(head, body[:5])
    answer = raw.read_until(b"\r\n\r\n")
    raw.sock.sendall(body[5:])
    raw.read_all()

    assert answer.startswith(b"HTTP/1.1 413 ") and b"Connection: close" in answer
    assert mock.last_request()["body_complete"] is False


def test_an_upload_stalls_until_its_gate_opens(mock, raw):
    size = 32 * 1024 * 1024  # more than the buffers of both sockets hold
    head = (
        f"POST /v1/echo HTTP/1.1\nHost: m\nx-mock-read-gate: u\nContent-Length: {size}\nAuthorization: Bearer {KEY}"
    )
    sender = threading.Thread(target=raw.send, args=(head, bytes(size)))
    sender.start()
    mock.wait_for("receiving")
    assert mock.last_request()["body_length"] < size
    mock.release("u")
    sender.join()

    raw.read_until(f'"body_length":{size}'.encode())


# --- waiting and serving --------------------------------------------------------------------------------------


def test_waiting_ends_as_soon_as_enough_requests_match(mock, post):
    callers = [threading.Thread(target=post, kwargs={"path": "/v1/responses"}) for _ in range(3)]
    for caller in callers:
        caller.start()
    seen = mock.wait_for("answered", path="/v1/responses", count=3)
    for caller in callers:
        caller.join()

    assert seen["target"] == "/v1/responses"


def test_waiting_in_vain_says_what_was_seen_instead(mock, post):
    post()

    with pytest.raises(TimeoutError, match="answered"):
        mock.wait_for("client_gone", timeout=0.01)


def test_the_ledger_keeps_the_last_thousand(mock, raw):
    ask = f"GET /v1/echo/%d HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    raw.sock.sendall("".join(ask % number for number in range(1001)).encode())
    raw.read_until(b"/v1/echo/1000")
    mock.wait_for("answered", count=1000)

    assert [request["target"] for request in mock.requests()] == [f"/v1/echo/{n}" for n in range(1, 1001)]


def test_https_is_served_with_a_certificate_of_a_test(tmp_path, session):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with MockOpenAI(cert=tmp_path / "server.pem", key=tmp_path / "server.pem") as mock:
        url, headers = f"{mock.url}/v1/chat/completions", {"x-mock-hang-after": "1"}
        with pytest.raises(requests.exceptions.SSLError):
            session.post(url, json=CHAT, timeout=60)
        session.verify = str(tmp_path / "ca.pem")
        whole = session.post(url, json=STREAM, timeout=60)
        with session.post(url, json=STREAM, headers=headers, stream=True, timeout=60):
            mock.wait_for("answering")
        gone = mock.wait_for("client_gone")

    assert whole.text.endswith("data: [DONE]\n\n")
    assert gone["pieces_sent"] == 1


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_on_a_signal_even_while_an_answer_waits(signal_number):
    command = [sys.executable, "-m", "mock_openai"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        mock = MockOpenAI()
        mock.url = process.stdout.readline().split()[-1]
        raw = RawClient(mock)
        raw.send(*chat_head("x-mock-hold: 1"))
        mock.wait_for("waiting")
        process.send_signal(signal_number)
        _, complaint = process.communicate(timeout=60)
        raw.close()

    assert (process.returncode, complaint) == (0, "")


def test_it_listens_where_it_is_told_to():
    command = [sys.executable, "-m", "mock_openai", "--host", "127.0.0.2"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        mock = MockOpenAI()
        mock.url = process.stdout.readline().split()[-1]
        connections = mock.connections()
        process.terminate()

    assert mock.url.startswith("http://127.0.0.2:")
    assert connections["open"] == 0


def test_the_mock_knows_nothing_of_the_application():
    names = {"app", "blueprints", "config", "llmproxy", "models", "wsgi"}
    code = f"import sys, mock_openai.mock; print({names!r} & {{name.partition('.')[0] for name in sys.modules}})"
    root = Path(__file__).resolve().parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "set()"
