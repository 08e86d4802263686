"""Routes, bodies and shapes with a token whose budget is never used up: refused for their kind, or as without one."""

import gzip
import json
import re

import pytest

from llmproxy.limits.routes import GROUPS
from tests.http_by_hand import Answer, HandClient
from tests.meters import DOLLAR, add_meter, rule
from tests.transparency.exchange import Exchange, Read, Sent, Twice, answer, assert_same, read_whole
from tests.transparency.page import Route, routes, rows
from tests.transparency.test_routes import EVENTS, sent
from tests.transparency.test_shapes import SHAPES

CHAT, SOUND = "/v1/chat/completions", "/v1/audio/transcriptions"
TOLD = ["x-proxy-budget-remaining", "x-proxy-budget-reset"]
# What ends later or elsewhere than its response, and what hands out credentials or rights.
REFUSED = re.compile(
    "POST /v1/(batches|fine_tuning/jobs(/ID/resume)?|fine_tuning/alpha/graders/run|evals/ID/runs|decisions"
    "|videos/(ID/remix|edits|extensions|characters)|audio/voice(s|_consents)|skills(/ID/versions)?|content_provenance_checks"
    "|containers(/ID/files)?|vector_stores(/ID(/search|/files(/ID)?|/file_batches)?)?"
    "|threads(/ID)?/runs(/ID/submit_tool_outputs)?|realtime/.*)"
    "|[A-Z]+ /v1/(chatkit/.*|fine_tuning/checkpoints/.*)|DELETE /v1/models/ID"
)
CODES = {"endpoint_not_allowed", "model_not_priced", "model_undetermined", "parameter_not_allowed"}
MODELS_IN_FORMS = {"/v1/images/edits": "gpt-image-1", "/v1/images/variations": "gpt-image-1", "/v1/videos": "sora-2"}
FORM = '--b\r\nContent-Disposition: form-data; name="file"; filename="ü.bin"\r\n\r\n\0\xff\r\n'
FORM += '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--b--\r\n'


@pytest.fixture(scope="module")
def budgeted(proxy, running_recorder) -> str:
    """The token, which may use all endpoints that rules can name by their group."""
    token = proxy.issue_token(proxy.create_project(base_url=running_recorder.url), rate_limit=10**6)
    add_meter(proxy, token, amount=10**9 * DOLLAR)
    rule(proxy, token, {"endpoints": list(GROUPS)})
    return token.secret


def without_told(down: Answer) -> Answer:
    """The answer without what it says of the budget, which it must."""
    assert [name for name, _ in down.headers if name in TOLD] == TOLD
    down.headers[:] = [pair for pair in down.headers if pair[0] not in TOLD]
    return down


@pytest.mark.parametrize("route", routes(), ids=" ".join)
def test_a_route_with_a_large_budget_is_refused_for_its_kind_or_passes_as_without(
    proxy, recorder, budgeted, route: Route
) -> None:
    route = route._replace(path=re.sub(r"\{\w+\}", "ID", route.path))
    request = sent(route)
    if route.body == "form":
        request.headers[-1] = ("Content-Type", "multipart/form-data; boundary=b")
        request.body = (FORM % MODELS_IN_FORMS.get(route.path, "whisper-1")).encode()
    kind = {"JSON": "application/json", "bytes": "application/octet-stream", "events": "text/event-stream"}
    body = {"JSON": b'{"object": "list",\n "data": []}', "bytes": bytes(range(256)), "events": b"".join(EVENTS)}
    lines = (f"Content-Type: {kind[route.answer]}", "x-ratelimit-limit-requests: 5", "Set-Cookie: a=b", "X-Odd:  ü")
    framing = "chunked" if route.answer == "events" else "length"
    recorder.answers(answer(*lines, body=body[route.answer], framing=framing))
    if REFUSED.fullmatch(f"{route.method} {route.path}"):
        with HandClient(proxy.url) as client:
            client.send(request.bytes_for(client.host, budgeted))
            refused = client.read_answer(route.method)
        assert refused.json["error"]["code"] in CODES and not recorder.has_received()
        return
    twice = Twice(recorder, proxy.url, budgeted)
    direct, proxied = twice.direct(request), twice.proxied(request)
    assert_same(Exchange(proxied.up, proxied.interim, without_told(proxied.down)), direct)


class ToldTwice(Twice):
    """With a token that is told what is left: in every answer that comes from upstream, and nothing else."""

    def proxied(self, sent: Sent, read: Read = read_whole) -> Exchange:
        exchange = super().proxied(sent, read)
        if exchange.down.all("server") == ["cloudflare"]:  # and so it is the upstream's
            without_told(exchange.down)
        return exchange

    def same(self, sent: Sent) -> Exchange:
        direct, proxied = self.direct(sent), self.proxied(sent)
        if direct.up.chunks is not None and is_held(sent):
            # Goes up with its length, and is the same else.
            direct.up.chunks = None
            direct.up.headers.append(("Content-Length", str(len(direct.up.body))))
        assert_same(proxied, direct)
        return proxied


def is_held(sent: Sent) -> bool:
    """Whether a body is short enough to be held in memory. Of longer ones only streams are, to be asked for usage."""
    return len(sent.body or sent.wire or b"") <= 64 << 10


@pytest.fixture
def told_twice(proxy, recorder, budgeted) -> ToldTwice:
    return ToldTwice(recorder, proxy.url, budgeted)


# Shapes of requests that no budget lets pass, on routes that it cannot charge.
UNCHARGED = {"an unknown method", "an empty body", "OPTIONS", "percent-encoding"}


@pytest.mark.parametrize("name", [name for name, _ in rows("Shapes") if name not in UNCHARGED])
def test_a_shape_with_a_large_budget_passes_as_without(told_twice, name) -> None:
    SHAPES[name](told_twice)


JSON = ("Content-Type", "application/json")
FORM_OF_B = ("Content-Type", "multipart/form-data; boundary=b")
CHUNKED = ("Transfer-Encoding", "chunked")
SMALL = b'{"model":\t"gpt-4.1",\n "messages": [{"content": "\xc3\xa9\\ud83d", "role": "user"}], "max_tokens": 1.50e1}'
# Beyond what is held in memory, so it lies in a file until it is judged.
LARGE = SMALL.replace(b'"content": "', b'"content": "' + "é\\n".encode() * 500_000)
FORM_BODY = (FORM % "whisper-1").encode()
LARGE_FORM = FORM_BODY.replace(b"\0", b"\0\xff" * 500_000)


def chunks(body: bytes) -> bytes:
    parts = [body[at : at + 50_001] for at in range(0, len(body), 50_001)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


BODIES = {
    "small JSON": Sent("POST", CHAT, [JSON], SMALL),
    "large JSON": Sent("POST", CHAT, [JSON], LARGE),
    "small JSON in chunks": Sent("POST", CHAT, [JSON, CHUNKED], SMALL, wire=chunks(SMALL)),
    "large JSON in chunks": Sent("POST", CHAT, [JSON, CHUNKED], LARGE, wire=chunks(LARGE)),
    "no kind": Sent("POST", CHAT, [], SMALL),
    "a form": Sent("POST", SOUND, [FORM_OF_B], FORM_BODY),
    "a large form": Sent("POST", SOUND, [FORM_OF_B], LARGE_FORM),
    "a form in chunks": Sent("POST", SOUND, [FORM_OF_B, CHUNKED], LARGE_FORM, wire=chunks(LARGE_FORM)),
    "no body where one may be": Sent("POST", "/v1/moderations", [JSON], b""),
}


@pytest.mark.parametrize("sent", BODIES.values(), ids=BODIES)
def test_a_body_passes_as_it_is_with_a_plain_token_and_with_a_large_budget(recorder, twice, told_twice, sent) -> None:
    told = {"object": "x", "model": "gpt-4.1", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    recorder.answers(answer("Content-Type: application/json", body=json.dumps(told).encode()))

    twice.same(sent)
    recorder.answers(answer("Content-Type: application/json", body=json.dumps(told).encode()))
    told_twice.same(sent)


def test_a_compressed_body_passes_with_a_plain_token_alone(proxy, recorder, twice, budgeted) -> None:
    packed = Sent("POST", CHAT, [JSON, ("Content-Encoding", "gzip")], gzip.compress(SMALL))
    recorder.answers(answer(body=b"{}"))
    twice.same(packed)
    with HandClient(proxy.url) as client:
        client.send(packed.bytes_for(client.host, budgeted))
        refused = client.read_answer()

    assert (refused.status, refused.json["error"]["code"]) == (415, "encoded_body")
    assert not recorder.has_received()
