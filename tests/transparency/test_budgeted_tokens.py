"""All documented routes with a token whose budget is never used up: refused for their kind, or as without one."""

import re

import pytest

from llmproxy.limits.routes import GROUPS
from tests.http_by_hand import Answer, HandClient
from tests.meters import DOLLAR, add_meter, rule
from tests.transparency.exchange import Exchange, Twice, answer, assert_same
from tests.transparency.page import Route, routes
from tests.transparency.test_routes import EVENTS, sent

TOLD = ["x-proxy-budget-remaining", "x-proxy-budget-reset"]
# What ends later or elsewhere than its response, and what hands out credentials or rights.
REFUSED = re.compile(
    "POST /v1/(batches|fine_tuning/jobs(/ID/resume)?|fine_tuning/alpha/graders/run|evals/ID/runs|videos/ID/remix"
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
