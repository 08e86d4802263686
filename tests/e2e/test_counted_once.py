"""What a project used, by the sums: every token once, whichever way the upstream tells it and whoever asks again."""

import json
from collections import defaultdict
from typing import NamedTuple

import pytest

from tests.conftest import serve
from tests.exposition import samples, total
from tests.http_by_hand import HandClient
from tests.servers import DEPLOYED, UPSTREAM_KEY, Server, Token, fetch, wait_for
from tests.upstream import Peer, ScriptedUpstream, answering

pytestmark = pytest.mark.servers(DEPLOYED)
JSON, EVENTS = "application/json", "text/event-stream"


class Exchange(NamedTuple):
    """A request, and the upstream's answer to it."""

    target: str
    body: bytes
    method: str = "POST"
    content_type: str = JSON


def told(prompt: int, completion: int, total_tokens: int | None = None) -> dict:
    """A usage as Responses, batches and others tell it."""
    total_tokens = prompt + completion if total_tokens is None else total_tokens
    return {"input_tokens": prompt, "output_tokens": completion, "total_tokens": total_tokens}


def chat_usage(prompt: int, completion: int, total_tokens: int) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total_tokens}


def post(target: str, answer: object, content_type: str = JSON) -> Exchange:
    return Exchange(
        target, answer if isinstance(answer, bytes) else json.dumps(answer).encode(), "POST", content_type
    )


def get(target: str, answer: object, content_type: str = JSON) -> Exchange:
    return post(target, answer, content_type)._replace(method="GET")


def events(*documents: object, name: str = "") -> bytes:
    """A stream of events; bytes are an event's data as they are."""
    field = f"event: {name}\n".encode() if name else b""
    datas = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in documents]
    return b"".join(field + b"data: " + data + b"\n\n" for data in datas)


def response(name: str = "resp_1", **more: object) -> dict:
    shape = {"id": name, "object": "response", "status": "completed", "background": False, "model": "gpt-5"}
    return shape | {"usage": told(20, 9)} | more


QUEUED = {"status": "queued", "usage": None}
RUN = {"id": "run_1", "object": "thread.run", "status": "completed", "usage": chat_usage(123, 456, 579)}
STEP = {"id": "step_1", "object": "thread.run.step", "status": "completed", "usage": chat_usage(100, 400, 500)}
OF_MODEL = {"model_name": "gpt-4o", "invocation_count": 3, **chat_usage(1000, 300, 1300), "cached_tokens": 10}
EVAL_RUN = {"id": "evalrun_1", "object": "eval.run", "status": "completed", "model": "gpt-4o"}
EVAL_RUN |= {"per_model_usage": [OF_MODEL, OF_MODEL | {"model_name": "o3"}]}
BATCH = {"id": "batch_1", "object": "batch", "status": "completed", "usage": told(1500, 500)}
CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o", "usage": chat_usage(19, 10, 29)}
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": [{"delta": {}}]}
CUT_EMOJI = rb'{"type":"response.completed","response":{"id":"resp_1","background":false,"output":"\ud83d",'
CUT_EMOJI += b'"usage":{"input_tokens":20,"output_tokens":9,"total_tokens":29}}}'
TOLD = b'"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}'
STORED_CHAT = "/v1/chat/completions/chatcmpl-1"

# Name -> what is called in turn, and what the sums then hold: prompt, completion and total tokens.
CASES: dict[str, tuple[list[Exchange], tuple[int, int, int]]] = {
    "a response, read three times": (
        [post("/v1/responses", response()), *[get("/v1/responses/resp_1", response())] * 3],
        (20, 9, 29),
    ),
    "a response whose object does not say how it was made": (
        [
            post("/v1/responses", response(background=None)),
            *[get("/v1/responses/resp_1", response(background=None))] * 3,
        ],
        (20, 9, 29),
    ),
    "responses that all have one id": ([post("/v1/responses", response(background=None))] * 3, (60, 27, 87)),
    "a response in the background, read before its end and three times after": (
        [
            post("/v1/responses", response(background=True, **QUEUED)),
            get("/v1/responses/resp_1", response(background=True, **QUEUED)),
            *[get("/v1/responses/resp_1", response(background=True))] * 3,
        ],
        (20, 9, 29),
    ),
    "a response in the background that does not say so": (
        [
            post("/v1/responses", {"id": "resp_1", "status": "queued", "usage": None}),
            *[get("/v1/responses/resp_1", {"id": "resp_1", "status": "completed", "usage": told(20, 9)})] * 3,
        ],
        (20, 9, 29),
    ),
    "a response in the background, streamed and then read": (
        [
            post(
                "/v1/responses", events({"type": "response.completed", "response": response(background=True)}), EVENTS
            ),
            get("/v1/responses/resp_1", response(background=True)),
        ],
        (20, 9, 29),
    ),
    "a response in the background whose stream broke off, taken up again twice": (
        [
            post(
                "/v1/responses",
                events({"type": "response.created", "response": response(background=True, **QUEUED)}),
                EVENTS,
            ),
            *[
                get(
                    "/v1/responses/resp_1?stream=true&starting_after=1",
                    events({"type": "response.completed", "response": response(background=True)}),
                    EVENTS,
                )
            ]
            * 2,
        ],
        (20, 9, 29),
    ),
    "a response in the background, cancelled and read": (
        [
            post("/v1/responses/resp_1/cancel", response(background=True, status="cancelled")),
            get("/v1/responses/resp_1", response(background=True, status="cancelled")),
        ],
        (20, 9, 29),
    ),
    "a compacted conversation": (
        [post("/v1/responses/compact", {"id": "resp_2", "object": "response.compaction", "usage": told(20, 9)})],
        (20, 9, 29),
    ),
    "a batch, read while it runs and three times after": (
        [
            post("/v1/batches", BATCH | {"status": "validating", "usage": told(0, 0)}),
            get("/v1/batches/batch_1", BATCH | {"status": "in_progress", "usage": told(700, 100)}),
            *[get("/v1/batches/batch_1", BATCH)] * 3,
        ],
        (1500, 500, 2000),
    ),
    "a run of an eval, read while it runs and three times after, and cancelled": (
        [
            post("/v1/evals/eval_1/runs", EVAL_RUN | {"status": "queued", "per_model_usage": None}),
            get("/v1/evals/eval_1/runs/evalrun_1", EVAL_RUN | {"status": "in_progress"}),
            *[get("/v1/evals/eval_1/runs/evalrun_1", EVAL_RUN)] * 3,
            post("/v1/evals/eval_1/runs/evalrun_1/cancel", EVAL_RUN),
        ],
        (2000, 600, 2600),
    ),
    "a large run of an eval that says nothing of itself, read twice": (
        [
            get(
                "/v1/evals/eval_1/runs/evalrun_1",
                {"data_source": "x" * 99_999, "per_model_usage": EVAL_RUN["per_model_usage"]},
            )
        ]
        * 2,
        (2000, 600, 2600),
    ),
    "a run, read four times": ([get("/v1/threads/t/runs/run_1", RUN)] * 4, (123, 456, 579)),
    "a run that says nothing of itself, read twice": (
        [get("/v1/threads/t/runs/run_1", {"usage": RUN["usage"]})] * 2,
        (123, 456, 579),
    ),
    "a run, streamed with its steps, and read with them": (
        [
            post("/v1/threads/runs", events({"id": "thread_1"}, STEP, RUN), EVENTS),
            get("/v1/threads/t/runs/run_1", RUN),
            get("/v1/threads/t/runs/run_1/steps/step_1", STEP),
            post("/v1/threads/t/runs/run_1", RUN),
        ],
        (123, 456, 579),
    ),
    "a run that goes on with its tools' outputs": (
        [
            post("/v1/threads/t/runs", events(RUN | {"status": "requires_action", "usage": None}), EVENTS),
            post("/v1/threads/t/runs/run_1/submit_tool_outputs", events(STEP, RUN), EVENTS),
            get("/v1/threads/t/runs/run_1", RUN),
        ],
        (123, 456, 579),
    ),
    "a stored chat, read, changed and read": (
        [
            post("/v1/chat/completions", CHAT),
            get(STORED_CHAT, CHAT),
            post(STORED_CHAT, CHAT),
            get("/v1/chat/completions/chatcmpl%2D1/", CHAT),
        ],
        (19, 10, 29),
    ),
    "a large response, read three times": (
        [
            post("/v1/responses", response(output=["x" * 99_999])),
            *[get("/v1/responses/resp_1", response(output=["x" * 99_999]))] * 3,
        ],
        (20, 9, 29),
    ),
    "a large response in the background, streamed and read twice": (
        [
            post(
                "/v1/responses",
                events({"type": "response.completed", "response": response(background=True, output=["x" * 99_999])}),
                EVENTS,
            ),
            *[get("/v1/responses/resp_1", response(background=True, output=["x" * 99_999]))] * 2,
        ],
        (20, 9, 29),
    ),
    "a response that is deleted": (
        [post("/v1/responses", response()), get("/v1/responses/resp_1", response())._replace(method="DELETE")],
        (20, 9, 29),
    ),
    "responses that are not kept": (
        [post("/v1/responses", response(store=False, background=None))] * 2,
        (40, 18, 58),
    ),
    "an event that ends in half an emoji": ([post("/v1/responses", events(CUT_EMOJI), EVENTS)], (20, 9, 29)),
    "embeddings with a total alone": (
        [post("/v1/embeddings", {"object": "list", "usage": {"total_tokens": 12}})],
        (0, 0, 12),
    ),
    "thinking that is in the total alone": (
        [post("/v1/chat/completions", CHAT | {"usage": chat_usage(20, 198, 623)})],
        (20, 198, 623),
    ),
    "a usage without a total": (
        [post("/v1/chat/completions", CHAT | {"usage": {"prompt_tokens": 20, "completion_tokens": 9}})],
        (20, 9, 29),
    ),
    "counts with a point": (
        [
            post(
                "/v1/chat/completions",
                b'{"usage": {"prompt_tokens": 11.0, "completion_tokens": 1.2, "total_tokens": 13.0}}',
            )
        ],
        (11, 2, 13),
    ),
    "usage within a choice": (
        [
            post(
                "/v1/chat/completions",
                events(CHUNK, CHUNK | {"choices": [{"delta": {}, "usage": CHAT["usage"]}]}),
                EVENTS,
            )
        ],
        (19, 10, 29),
    ),
    "usage in Groq's place": (
        [post("/v1/chat/completions", events(CHUNK, CHUNK | {"x_groq": {"usage": CHAT["usage"]}}), EVENTS)],
        (19, 10, 29),
    ),
    "an event with a number that is too long for most": (
        [post("/v1/chat/completions", events(CHUNK, b'{"seed":' + b"9" * 5000 + b"," + TOLD + b"}"), EVENTS)],
        (19, 10, 29),
    ),
    "a stream that is called a page": (
        [post("/v1/chat/completions", events(CHUNK, CHUNK | {"usage": CHAT["usage"]}), "text/html")],
        (19, 10, 29),
    ),
    "a stream that is called JSON": (
        [post("/v1/chat/completions", events(CHUNK, CHUNK | {"usage": CHAT["usage"]}))],
        (19, 10, 29),
    ),
    "a stream that is called text": (
        [post("/v1/chat/completions", events(CHUNK, CHUNK | {"usage": CHAT["usage"]}), "text/plain; charset=utf-8")],
        (19, 10, 29),
    ),
    "JSON that is called a stream": ([post("/v1/chat/completions", json.dumps(CHAT).encode(), EVENTS)], (19, 10, 29)),
    "JSON behind a byte order mark": (
        [post("/v1/chat/completions", b"\xef\xbb\xbf" + json.dumps(CHAT).encode())],
        (19, 10, 29),
    ),
}

ERROR = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
# A response with a good status, and an error in it.
FAILURES: dict[str, Exchange] = {
    "an error event": post("/v1/chat/completions", events(CHUNK, {"error": ERROR}), EVENTS),
    "an error event that is called one": post("/v1/threads/t/runs", events(ERROR, name="error"), EVENTS),
    "an error event that is called one alone": post(
        "/v1/chat/completions", events(CHUNK) + events({"message": "x"}, name="error"), EVENTS
    ),
    "an error event in words": post(
        "/v1/chat/completions", events(CHUNK) + events(b"Bad Gateway", name="error"), EVENTS
    ),
    "an error in Groq's place": post(
        "/v1/chat/completions", events(CHUNK, CHUNK | {"x_groq": {"error": "over_capacity"}}), EVENTS
    ),
    "one choice of two that ends in an error": post(
        "/v1/chat/completions", CHAT | {"choices": [{"finish_reason": "stop"}, {"finish_reason": "error"}]}
    ),
    "a flat error event": post("/v1/responses", events({"type": "error", "code": "x", "message": "x"}), EVENTS),
    "a response that fails in its stream": post(
        "/v1/responses",
        events({"type": "response.failed", "response": response(status="failed", error=None, usage=None)}),
        EVENTS,
    ),
    "a response that failed": post("/v1/responses", response(status="failed", error={"code": "server_error"})),
    "a choice that ends in an error": post(
        "/v1/chat/completions", events(CHUNK | {"choices": [{"delta": {}, "finish_reason": "error"}]}), EVENTS
    ),
    "JSON with an error": post("/v1/chat/completions", {"error": ERROR}),
    "JSON with an error in words": post("/v1/chat/completions", {"error": "model not found"}),
    "a run that fails in its stream": post(
        "/v1/threads/t/runs",
        events(RUN | {"status": "failed", "last_error": {"code": "rate_limit_exceeded"}}),
        EVENTS,
    ),
}
# And what only looks like one.
SUCCESSES: dict[str, Exchange] = {
    "a response that is cut off": post(
        "/v1/responses", events({"type": "response.incomplete", "response": response(status="incomplete")}), EVENTS
    ),
    "an error without a word": post(
        "/v1/fine_tuning/jobs", {"object": "fine_tuning.job", "error": {"code": None, "message": None}}
    ),
    "an event that tells of one": post(
        "/v1/chat/completions", events(CHUNK) + events({"rate": 0.1}, name="error_rate"), EVENTS
    ),
    "no error": post("/v1/responses", response(error=None)),
    "a failed response that is read": get("/v1/responses/resp_1", response(status="failed", error={"code": "x"})),
    "a failed job that is read": get(
        "/v1/fine_tuning/jobs/ft_1", {"object": "fine_tuning.job", "status": "failed", "error": {"code": "x"}}
    ),
    "talk of errors": post("/v1/chat/completions", CHAT | {"choices": [{"message": {"error": "x"}}]}),
}


# Where numbers of a model stand in a row: metric and kind.
PLACES = {
    ("llmproxy_usage_tokens_total", "prompt"): 0,
    ("llmproxy_usage_tokens_total", "completion"): 1,
    ("llmproxy_cost_usd_total", None): 2,
    ("llmproxy_unpriced_calls_total", None): 3,
}


def play(server: Server, token: Token, exchanges: list[Exchange]) -> None:
    """Make the calls one after the other."""
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    scripts = [answering((head % (each.content_type, len(each.body))).encode() + each.body) for each in exchanges]
    with ScriptedUpstream(*scripts) as upstream:
        change = {"base_url": upstream.url, "openai_api_key": UPSTREAM_KEY}
        assert server.manage("PATCH", f"/projects/{token.project_id}", change)[0] == 200
        for each in exchanges:
            _, _, seen = fetch(server.url, each.method, each.target, dict([token.bearer]), b"{}")
            assert seen == each.body


def usage_of(server: Server, token: Token, *, requests: int) -> dict:
    """A project's total, as soon as it holds so many requests."""

    def total() -> dict | None:
        _, answer = server.manage("GET", f"/usage?project_id={token.project_id}&group_by=day")
        return answer["total"] if answer["total"]["requests"] == requests else None

    found = wait_for(total)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def server(running_upstream, tmp_path_factory):
    yield from serve(DEPLOYED, running_upstream, tmp_path_factory, WEB_CONCURRENCY="2")


@pytest.fixture(scope="module")
def played(server) -> dict[str, Token]:
    """The token of each case, whose calls are all made."""
    tokens = {name: server.issue_token() for name in CASES}
    for name, (exchanges, _) in CASES.items():
        play(server, tokens[name], exchanges)
    return tokens


@pytest.mark.parametrize("name", CASES)
def test_the_sums_hold_what_was_used(server, played, name):
    exchanges, expected = CASES[name]

    usage = usage_of(server, played[name], requests=len(exchanges))
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == expected


def test_metrics_count_what_the_sums_do_under_the_same_models(server, played):
    for name, (exchanges, _) in CASES.items():
        usage_of(server, played[name], requests=len(exchanges))

    def in_sums():
        _, usage = server.manage("GET", "/usage?group_by=model&limit=1000")
        names = ("prompt_tokens", "completion_tokens", "cost_usd", "unpriced")
        rows = [(row["model"] or "none", [row[name] for name in names]) for row in usage["data"]]
        return {model: numbers for model, numbers in rows if any(numbers)}

    def in_metrics():
        found = defaultdict(lambda: [0, 0, 0, 0])
        for sample in samples(server.metrics()):
            place = PLACES.get((sample.name, sample.labels.get("kind")))
            if place is not None:
                found[sample.labels["model"]][place] += sample.value
        return {model: [*tokens, round(dollars, 6), calls] for model, (*tokens, dollars, calls) in found.items()}

    assert len(in_sums()) > 2
    wait_for(lambda: in_metrics() == in_sums(), otherwise=lambda: (in_metrics(), in_sums()))


def test_a_record_says_whose_usage_it_saw(server, played):
    def records_of(case):
        # Of two workers, the one that answered first may write last.
        found = server.wait_for_records(len(CASES[case][0]), played[case])
        return sorted(found, key=lambda record: record["timestamp"])

    records = records_of("a response in the background, read before its end and three times after")

    seen = [(record["usage_source"], record.get("usage_of")) for record in records]
    assert seen == [("absent", None)] * 2 + [("stored", "resp_1")] * 3
    records = records_of("a response, read three times")
    assert [(record["usage_source"], "usage_of" in record) for record in records] == [
        ("reported", False),
        *[("stored", False)] * 3,
    ]


def test_who_reads_after_a_restart_counts_nothing_again(running_upstream, tmp_path):
    background = response(background=True)
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=running_upstream.url) as server:
        token = server.issue_token()
        play(server, token, [get("/v1/responses/resp_1", background)])
    with Server(DEPLOYED, tmp_path / "data") as server:
        play(server, token, [get("/v1/responses/resp_1", background)])
        assert usage_of(server, token, requests=2)["total_tokens"] == 29


# Errors


@pytest.fixture(scope="module")
def failed(server) -> dict[str, Token]:
    """The token of each exchange that fails, or may seem to; all are made."""
    exchanges = FAILURES | SUCCESSES
    tokens = {name: server.issue_token() for name in exchanges}
    for name, exchange in exchanges.items():
        play(server, tokens[name], [exchange])
    return tokens


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_inside_a_good_response_is_an_error(server, failed, name):
    usage = usage_of(server, failed[name], requests=1)

    assert (usage["errors"], usage["client_closed"], usage["silent_streams"]) == (1, 0, 0)
    [record] = server.records(failed[name])
    assert (record["status_code"], record["outcome"], record["failed_inside"]) == (200, "complete", True)
    labels = {"project": failed[name].project_id}
    assert total(server.metrics(), "llmproxy_failed_inside_total", **labels) == 1


@pytest.mark.parametrize("name", SUCCESSES)
def test_what_only_looks_like_an_error_is_none(server, failed, name):
    assert usage_of(server, failed[name], requests=1)["errors"] == 0
    [record] = server.records(failed[name])
    assert "failed_inside" not in record


def test_who_hangs_up_on_an_error_does_not_hide_it(server):
    def fails_and_waits(peer: Peer) -> None:
        peer.read_request()
        body = events(CHUNK, {"error": ERROR})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        peer.send(head + b"%x\r\n%s\r\n" % (len(body), body))
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(fails_and_waits) as upstream:
        token = server.issue_token(server.create_project(base_url=upstream.url))
        with HandClient(server.url) as client:
            client.send_request("POST", "/v1/chat/completions", token.bearer, body=b"{}")
            client.read_chunk(client.read_head())

    usage = usage_of(server, token, requests=1)
    assert (usage["errors"], usage["client_closed"]) == (1, 0)
    [record] = server.records(token)
    assert (record["outcome"], record["failed_inside"]) == ("client_closed", True)
