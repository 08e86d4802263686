"""Whom a token's holder may ask: at /self, and in refusals that an operator can lift."""

import pytest

from tests.http_by_hand import call
from tests.meters import DOLLAR, add_meter, asking
from tests.servers import Server, on_both_servers

pytestmark = on_both_servers
CHAT = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")
CONTACT = "Zoë <it-help@example.com>"
USED_UP = {"spent": DOLLAR, "period": "total", "period_end": 2**62}
ASKS = [
    ("budget_exhausted", USED_UP, None),
    ("budget_too_small", {"amount": 5, "reserve": "bound"}, None),
    ("model_not_allowed", None, {"models": ["gpt-5"]}),
    ("endpoint_not_allowed", None, {"endpoints": ["embeddings"]}),
    ("parameter_not_allowed", None, {"limits": {"n": 1}}),
]


@pytest.fixture(scope="module")
def helpful(server_kind, running_upstream, tmp_path_factory):
    """A proxy that knows whom to ask."""
    data_dir = tmp_path_factory.mktemp("helpful") / "data"
    with Server(server_kind, data_dir, UPSTREAM_URL=running_upstream.url, CONTACT=CONTACT) as server:
        yield server


def refused(server, code, meter, rules):
    token = server.issue_token(**({"rules": rules} if rules else {}))
    if meter:
        add_meter(server, token, **meter)
    error = call(server.url, "POST", CHAT, token.bearer, JSON, body=asking(n=2)).json["error"]
    assert error["code"] == code
    return error["message"]


@pytest.mark.parametrize(("code", "meter", "rules"), ASKS, ids=[code for code, *_ in ASKS])
def test_a_refusal_that_an_operator_can_lift_says_whom_to_ask(helpful, code, meter, rules):
    assert refused(helpful, code, meter, rules).endswith(f". Contact: {CONTACT}")


def test_a_refusal_that_passes_by_itself_names_nobody(helpful):
    token = helpful.issue_token()
    add_meter(helpful, token, amount=1, unit="requests", period="hour")
    answers = [call(helpful.url, "POST", CHAT, token.bearer, JSON, body=asking()) for _ in range(2)]

    assert answers[1].json["error"]["code"] == "rate_limit_exceeded"
    assert "Contact" not in answers[1].json["error"]["message"]


def test_a_proxy_that_was_not_told_names_nobody(proxy):
    assert "Contact" not in refused(proxy, "budget_exhausted", USED_UP, None)


def test_self_says_whom_to_ask_as_json_and_as_a_page(helpful):
    token = helpful.issue_token()

    told = call(helpful.url, "GET", "/self", token.bearer)
    form = ("Content-Type", "application/x-www-form-urlencoded")
    page = call(helpful.url, "POST", "/self", form, body=f"token={token.secret}".encode())

    assert told.json["contact"] == CONTACT
    assert "Zoë &lt;it-help@example.com&gt;" in page.body.decode()


def test_self_of_a_proxy_that_was_not_told_has_no_contact(proxy, token):
    assert call(proxy.url, "GET", "/self", token.bearer).json["contact"] is None
