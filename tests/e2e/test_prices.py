"""Calls through the running proxy cost what OpenAI charges, to the micro-dollar."""

import json
import signal
import uuid

import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection

from tests.exposition import total
from tests.http_by_hand import call
from tests.servers import DEPLOYED, Server, wait_for
from tests.websocket_upstream import WebSocketUpstream

JSON = ("Content-Type", "application/json")
MILLION = 10**6


def http(body: bytes, content_type: str, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def as_json(document) -> bytes:
    return http(json.dumps(document).encode(), "application/json")


def as_events(*documents) -> bytes:
    data = b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)
    return http(data + b"data: [DONE]\n\n", "text/event-stream")


def chat(model, tokens_in, tokens_out, *, cached=0, **members):
    """A chat completion, as JSON and as a stream."""
    usage = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
    }
    whole = {"object": "chat.completion", "model": model, "created": 1, "choices": [{}], "usage": usage} | members
    first = {
        "object": "chat.completion.chunk",
        "model": model,
        "created": 1,
        "choices": [{}],
        "usage": None,
    } | members
    last = first | {"choices": [], "usage": usage}
    return as_json(whole), as_events(first, first, last)


def response(model, tokens_in, tokens_out, *, output=(), **members):
    """A response, as JSON and as a stream."""
    usage = {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
    told = {"object": "response", "model": model, "created_at": 1, "output": list(output), "usage": usage} | members
    begun = told | {"usage": None, "output": []}
    return as_json(told), as_events(
        {"type": "response.created", "response": begun},
        *({"type": "response.output_item.done", "item": item} for item in output),
        {"type": "response.completed", "response": told},
    )


def message(model, tokens_in, tokens_out, *, cached):
    """A message in Anthropic's form, as JSON and as a stream: what is cached is told beside the input."""
    read = {"input_tokens": tokens_in, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}
    told = {"type": "message", "model": model, "content": [], "usage": read | {"output_tokens": tokens_out}}
    begun = told | {"usage": read | {"output_tokens": 1}}
    return as_json(told), as_events(
        {"type": "message_start", "message": begun},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens_out}},
        {"type": "message_stop"},
    )


SEARCH = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
TRANSCRIBED = {"input_tokens": 1_000, "input_token_details": {"text_tokens": 100, "audio_tokens": 900}}
TRANSCRIBED |= {"type": "tokens", "output_tokens": 200, "total_tokens": 1_200}
DRAWN = {"input_tokens": 50, "input_tokens_details": {"text_tokens": 50, "image_tokens": 0}}
DRAWN |= {"output_tokens": 4_160, "total_tokens": 4_210}
FORM = ("Content-Type", "multipart/form-data; boundary=b")
FORM_BODY = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o-transcribe\r\n--b--\r\n'

RIGHT = [
    (CHAT, chat("gpt-4o-2024-08-06", MILLION, MILLION), 12.50),
    (CHAT, chat("gpt-4.1", MILLION, 0, cached=750_000), 0.875),
    (RESPONSES, response("gpt-5.4", 272_000, 1_000), 0.695),
    (RESPONSES, response("gpt-5.4", 272_001, 1_000), 1.382505),
    (CHAT, chat("o3", MILLION, MILLION, service_tier="flex"), 5),
    (CHAT, chat("o3", MILLION, MILLION, service_tier="priority"), 17.5),
    (RESPONSES, response("o3", MILLION, MILLION, service_tier="default"), 10),
    (RESPONSES, response("o3", MILLION, MILLION, service_tier="priority"), 17.5),
    (RESPONSES, response("gpt-5", 1_000, 100, output=[SEARCH] * 3), 0.03225),
    (CHAT, chat("ft:gpt-4.1-2025-04-14:acme::Bq1", MILLION, 0), 3),
    (CHAT, chat("ft:gpt-4.1-2025-04-14:acme::Bq1", 0, MILLION), 12),
    ("/v1/messages", message("gpt-4o", 100_000, 10_000, cached=100_000), 0.475),
]


@pytest.fixture
def record_of(proxy, recorder, token_for):
    """Makes a call that is answered so; the record that it leaves."""
    token = token_for(recorder.url)

    def make(endpoint, answer, body=b'{"model": "asked-for"}', headers=(JSON,), method="POST"):
        recorder.answers(answer)
        response = call(proxy.url, method, endpoint, token.bearer, *headers, body=body)
        return proxy.record_of(response["x-proxy-request-id"])

    return make


def costs(record):
    return record["cost_usd"], record["cost_source"]


@pytest.mark.parametrize("form", [0, 1], ids=["json", "stream"])
@pytest.mark.parametrize(("endpoint", "answers", "dollars"), RIGHT)
def test_a_call_costs_what_openai_charges(record_of, endpoint, answers, dollars, form):
    record = record_of(endpoint, answers[form])

    assert costs(record) == (dollars, "reported")
    assert record["stream"] is bool(form)
    assert record["requested_model"] is None
    assert len(record["price_date"]) == len("2026-11-26")


@pytest.mark.parametrize(
    ("model", "tokens", "dollars"),
    [("o3", (MILLION, MILLION), 5), ("text-embedding-3-small", (MILLION, 0), 0.01)],
)
def test_what_a_batch_did_costs_what_batches_do(record_of, model, tokens, dollars):
    usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
    batch = {"object": "batch", "model": model, "status": "completed", "usage": usage, "service_tier": "default"}

    record = record_of("/v1/batches/batch_1", as_json(batch), None, (), "GET")

    assert costs(record) == (dollars, "stored")


def test_a_batch_of_many_requests_is_not_above_the_line_of_one(record_of):
    usage = {"input_tokens": MILLION, "output_tokens": 0, "total_tokens": MILLION}
    batch = {"id": "b", "object": "batch", "model": "gpt-5.4", "status": "completed", "usage": usage}

    assert costs(record_of("/v1/batches/b", as_json(batch), None, (), "GET")) == (1.25, "stored")


@pytest.mark.parametrize(
    ("grader", "total", "of_grader"),
    [
        ("o3", (0.009, "stored"), {"cost_usd": 0.008, "unpriced": 0}),
        ("llama3", (None, "unpriced"), {"cost_usd": 0, "unpriced": 1}),
    ],
)
def test_a_run_of_an_eval_costs_what_each_of_its_models_does(record_of, proxy, grader, total, of_grader):
    used = {"prompt_tokens": 0, "completion_tokens": 1_000, "total_tokens": 1_000, "cached_tokens": 0}
    graded = {"model_name": "gpt-4o-mini", "prompt_tokens": 4_000, "completion_tokens": 666, "total_tokens": 4_666}
    run = {"object": "eval.run", "id": f"evalrun_{uuid.uuid4()}", "status": "completed", "model": "gpt-4o-mini"}
    run |= {"per_model_usage": [graded, used | {"model_name": grader}]}

    record = record_of(f"/v1/evals/eval_1/runs/{run['id']}", as_json(run), body=None, headers=(), method="GET")

    assert costs(record) == total

    def counted():
        _, usage = proxy.manage("GET", f"/usage?group_by=model&project_id={record['project_id']}")
        return usage if usage["total"]["requests"] else None

    usage = wait_for(counted)
    row = next(row for row in usage["data"] if row["model"] == grader)
    assert row | of_grader | {"completion_tokens": 1_000, "requests": 0} == row
    assert (usage["total"]["usage_reported"], usage["total"]["cost_usd"]) == (1, record["cost_usd"] or 0)


def test_a_response_in_the_background_costs_once_however_often_it_is_fetched(proxy, recorder, token_for):
    token = token_for(recorder.url)
    whole, _ = response("gpt-5", 1_000, 100, id="resp_1", background=True, status="completed")
    done = json.loads(whole.partition(b"\r\n\r\n")[2])
    queued = done | {"usage": None, "status": "queued"}
    recorder.answers(as_json(queued))
    call(proxy.url, "POST", RESPONSES, token.bearer, JSON, body=b'{"model": "gpt-5", "background": true}')
    recorder.answers(as_json(done))
    for _ in range(3):
        call(proxy.url, "GET", f"{RESPONSES}/resp_1", token.bearer)

    def total():
        sums = proxy.manage("GET", f"/usage?token_id={token.id}")[1]["total"]
        return sums if sums["requests"] == 4 else None

    sums = wait_for(total)
    assert (sums["cost_usd"], sums["unpriced"]) == (0.00225, 0)
    told = [costs(record) for record in proxy.wait_for_records(4, token)]
    assert told == [(None, "absent"), *[(0.00225, "stored")] * 3]


def test_reading_a_stored_response_again_costs_nothing(record_of):
    stored = response("gpt-5", 1_000, 100, id="resp_2", background=False, status="completed")[0]

    assert costs(record_of(f"{RESPONSES}/resp_2", stored, None, (), "GET")) == (0, "none")


def test_images_by_tokens_cost_what_openai_charges(record_of):
    whole = {"created": 1, "data": [{"b64_json": "A" * 200_000}], "size": "1024x1024", "usage": DRAWN}
    last = {"type": "image_generation.completed", "b64_json": "A" * 200_000, "size": "1024x1024", "usage": DRAWN}
    body = b'{"model": "gpt-image-1", "prompt": "planted prompt"}'

    for answer in (as_json(whole), as_events(last)):
        record = record_of("/v1/images/generations", answer, body)

        assert (*costs(record), record["requested_model"]) == (0.16665, "reported", "gpt-image-1")


def test_a_transcription_costs_what_openai_charges(record_of):
    last = {"type": "transcript.text.done", "text": "hello", "usage": TRANSCRIBED}

    for answer in (as_json({"text": "hello", "usage": TRANSCRIBED}), as_events(last)):
        record = record_of("/v1/audio/transcriptions", answer, FORM_BODY, (FORM,))

        assert (*costs(record), record["requested_model"]) == (0.0045, "reported", "gpt-4o-transcribe")


def test_speech_is_billed_by_the_characters_of_its_request(record_of):
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": "é" * 1_000}).encode()

    record = record_of("/v1/audio/speech", http(b"ID3\x04", "audio/mpeg"), body)

    assert (*costs(record), record["metadata"]) == (0.015, "computed", {"characters": 1_000})


def test_speech_that_is_billed_by_tokens_has_no_known_cost_where_none_are_told(record_of):
    body = json.dumps({"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "hello"}).encode()

    assert costs(record_of("/v1/audio/speech", http(b"ID3\x04", "audio/mpeg"), body)) == (None, "absent")


@pytest.mark.parametrize("path", ["/v1/audio/speech/", "/v1/%61udio/speech", "/v1//audio/speech"])
def test_a_path_is_read_as_servers_read_it(record_of, path):
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": "x" * 1_000}).encode()

    assert costs(record_of(path, http(b"ID3\x04", "audio/mpeg"), body)) == (0.015, "computed")


def test_a_video_is_billed_by_its_seconds(record_of):
    video = {"object": "video", "model": "sora-2", "seconds": "8", "size": "1280x720", "status": "queued"}

    assert costs(record_of("/v1/videos", as_json(video))) == (0.8, "computed")
    assert costs(record_of("/v1/videos/v1", as_json(video), None, (), "GET")) == (0, "none")


def test_a_container_has_the_fee_of_its_size(record_of):
    body = b'{"name": "c", "memory_limit": "4g"}'

    assert costs(record_of("/v1/containers", as_json({"object": "container"}), body)) == (0.12, "computed")


SPOKEN = {
    "input_tokens": 2_000, "output_tokens": 1_000, "total_tokens": 3_000,
    "input_token_details": {
        "text_tokens": 500, "audio_tokens": 1_500, "cached_tokens": 1_000,
        "cached_tokens_details": {"text_tokens": 100, "audio_tokens": 900},
    },
    "output_token_details": {"text_tokens": 200, "audio_tokens": 800},
}  # fmt: skip


def test_a_realtime_session_costs_what_openai_charges_for_each_of_its_responses(proxy, token_for):
    heard = {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}

    def talk(peer: ServerConnection) -> None:
        peer.send(json.dumps({"type": "session.created", "session": {"model": "gpt-realtime", **heard}}))
        done = {"type": "response.done", "response": {"object": "realtime.response", "usage": SPOKEN}}
        for _ in range(2):
            peer.send(json.dumps(done))
        transcribed = "conversation.item.input_audio_transcription.completed"
        peer.send(json.dumps({"type": transcribed, "transcript": "hello", "usage": TRANSCRIBED}))

    with WebSocketUpstream(talk) as upstream:
        token = token_for(upstream.url)
        url = proxy.url.replace("http", "ws") + "/v1/realtime?model=gpt-realtime"
        with connect(url, additional_headers=dict([token.bearer]), proxy=None) as client:
            for _ in client:
                pass

    *responses, _ = proxy.wait_for_records(4, token)
    assert [costs(record) for record in responses] == [(0.0756, "reported")] * 2 + [(0.0045, "reported")]


def test_a_failed_call_costs_nothing(record_of):
    error = http(b'{"error": {"code": "model_not_found"}}', "application/json", "404 Not Found")

    record = record_of(CHAT, error)

    assert (*costs(record), record["price_date"], record["requested_model"]) == (0, "none", None, "asked-for")


def test_a_refused_call_costs_nothing(proxy):
    answer = call(proxy.url, "POST", CHAT, ("Authorization", f"Bearer {uuid.uuid4()}"), JSON, body=b"{}")

    assert costs(proxy.record_of(answer["x-proxy-request-id"])) == (0, "none")


def test_a_stream_that_tells_no_usage_has_no_known_cost(record_of):
    _, stream = chat("gpt-4o", 10, 10)
    without = stream.replace(b'"usage": {', b'"useless": {')

    assert costs(record_of(CHAT, without)) == (None, "absent")


def test_a_model_without_a_price_is_unpriced(record_of, proxy):
    record = record_of(CHAT, chat("nobody-s-model", 10, 10)[0])

    assert (*costs(record), record["price_date"]) == (None, "unpriced", None)
    wait_for(lambda: 'llmproxy_unpriced_calls_total{model="nobody-s-model"} 1.0' in proxy.metrics())


def test_a_model_that_nobody_names_is_looked_for_in_no_large_body(record_of):
    body = b'{"model": "gpt-image-1", "prompt": "' + b"x" * 70_000 + b'"}'

    record = record_of("/v1/images/generations", as_json({"data": [], "usage": DRAWN}), body)

    assert (*costs(record), record["requested_model"]) == (None, "unpriced", None)


def test_a_usage_that_cannot_be_is_none(record_of, proxy):
    record = record_of(CHAT, chat("gpt-4o", 2**52, 0)[0])

    assert (*costs(record), record["usage_source"]) == (None, "absent", "absent")
    assert record["metadata"] == {"model": "gpt-4o", "created": 1}
    wait_for(lambda: "llmproxy_usage_clamped_total 0.0" not in proxy.metrics())


def test_costs_and_tokens_are_counted_for_prometheus_under_the_model_that_is_billed(recorder, tmp_path):
    # A server of its own: the metrics name the first hundred projects of a process.
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=recorder.url) as server:
        token = server.issue_token()
        recorder.answers(chat("gpt-4o-2024-08-06", MILLION, MILLION)[0])
        call(server.url, "POST", CHAT, token.bearer, JSON, body=b'{"model": "asked-for"}')
        recorder.answers(as_json({"text": "hello", "usage": TRANSCRIBED}))
        call(server.url, "POST", "/v1/audio/transcriptions", token.bearer, FORM, body=FORM_BODY)

        def counted():
            text = server.metrics()
            models = ("gpt-4o-2024-08-06", "gpt-4o-transcribe")
            dollars = [total(text, "llmproxy_cost_usd_total", model=model, source="reported") for model in models]
            read = [total(text, "llmproxy_usage_tokens_total", model=model, kind="prompt") for model in models]
            return (dollars, read) == ([12.5, 0.0045], [MILLION, 1_000])

        wait_for(counted, otherwise=server.metrics)


OWN = """
[model."gpt-4o"]
out = 20.00

[project."edge models".model."llama3"]
in = 0.10
out = 0.20
"""


def test_an_operator_s_own_prices_hold_and_a_project_s_before_them(tmp_path, recorder):
    (tmp_path / "prices.toml").write_text(OWN)
    settings = {"PRICES_FILE": str(tmp_path / "prices.toml"), "UPSTREAM_URL": recorder.url}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        edge = server.issue_token(server.create_project(name="edge models"))
        other = server.issue_token()

        def cost(token, model):
            recorder.answers(chat(model, MILLION, MILLION)[0])
            answer = call(server.url, "POST", CHAT, token.bearer, JSON, body=b"{}")
            return server.record_of(answer["x-proxy-request-id"])["cost_usd"]

        assert cost(other, "gpt-4o") == cost(edge, "gpt-4o") == 22.5
        assert (cost(edge, "llama3"), cost(other, "llama3")) == (0.3, None)
        server.manage("PATCH", f"/projects/{edge.project_id}", {"name": "renamed"})
        assert cost(edge, "llama3") is None


def test_without_prices_calls_have_no_cost(tmp_path, recorder):
    with Server(DEPLOYED, tmp_path / "data", PRICES_FILE="none", UPSTREAM_URL=recorder.url) as server:
        recorder.answers(chat("gpt-4o", 10, 10)[0])
        answer = call(server.url, "POST", CHAT, server.issue_token().bearer, JSON, body=b"{}")
        record = server.record_of(answer["x-proxy-request-id"])

    assert (*costs(record), record["price_date"], record["usage_source"]) == (None, None, None, "reported")


def test_a_price_file_is_read_again_at_a_reload_and_one_that_became_wrong_is_not(tmp_path, recorder):
    path = tmp_path / "prices.toml"
    path.write_text(OWN)
    recorder.answers(chat("gpt-4o", MILLION, MILLION)[0])
    with Server(DEPLOYED, tmp_path / "data", PRICES_FILE=str(path), UPSTREAM_URL=recorder.url) as server:
        token = server.issue_token()

        def cost():
            answer = call(server.url, "POST", CHAT, token.bearer, JSON, body=b"{}")
            return server.record_of(answer["x-proxy-request-id"])["cost_usd"]

        assert cost() == 22.5
        path.write_text('model."gpt-4o".out = -1')
        server.process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: 'not reloading: wrong settings: PRICES_FILE: cannot be used: model "gpt-4o"' in server.output()
        )
        server.kill_a_worker()
        assert cost() == 22.5
        path.write_text('model."gpt-4o".out = 30')
        server.process.send_signal(signal.SIGHUP)
        assert wait_for(lambda: (now := cost()) != 22.5 and now) == 32.5
