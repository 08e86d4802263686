"""What callers are told when the proxy itself answers: body, headers, and what the openai client raises."""

import socket
from datetime import UTC, datetime, timedelta

import openai
import pytest

from tests.http_by_hand import call
from tests.servers import Server, Token, on_both_servers, wait_for

pytestmark = on_both_servers
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="session")
def closed_port():
    """A port of 127.0.0.1 on which nobody listens, and nobody will while the tests run."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@pytest.fixture
def holder(proxy: Server, closed_port):
    """Makes a token in the named state."""

    def make(state: str) -> Token:
        if state == "unknown":
            return Token(UNKNOWN, "", "")
        project = proxy.create_project(
            **({"base_url": f"http://127.0.0.1:{closed_port}"} if state == "unreachable" else {})
        )
        token = proxy.issue_token(project, **({"rate_limit": 1} if state == "used up" else {}))
        if state == "revoked":
            assert proxy.manage("DELETE", "/tokens", {"token": token.secret})[0] == 204
        if state == "expired":
            past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
            assert proxy.manage("PATCH", f"/tokens/{token.id}", {"expires_at": past})[0] == 200
        if state == "project inactive":
            assert proxy.manage("PATCH", f"/projects/{project}", {"is_active": False})[0] == 200
        if state == "used up":
            assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 200
        return token

    return make


REFUSED = [
    ("unknown", 401, "invalid_request_error", "invalid_api_key", openai.AuthenticationError),
    ("revoked", 401, "invalid_request_error", "token_revoked", openai.AuthenticationError),
    ("expired", 401, "invalid_request_error", "token_expired", openai.AuthenticationError),
    ("project inactive", 403, "permission_error", "project_inactive", openai.PermissionDeniedError),
]


@pytest.mark.parametrize(("state", "status", "type_", "code", "raised"), REFUSED)
def test_a_token_that_may_not_pass_is_told_why_and_not_to_try_again(
    proxy, upstream, holder, state, status, type_, code, raised
):
    token = holder(state)
    answer = call(proxy.url, "GET", "/v1/models", token.bearer)

    assert (answer.status, answer["content-type"]) == (status, "application/json")
    error = answer.json["error"]
    assert error == {"message": error["message"], "type": type_, "param": None, "code": code}
    assert answer["x-should-retry"] == "false"
    assert answer["x-request-id"] == answer["x-proxy-request-id"]
    assert token.secret not in answer.body.decode()
    whose = {"token": token.id or None, "project_id": token.project_id or None}
    wait_for(lambda: proxy.count_calls(outcome="refused", error={"code": code, "type": type_}, **whose) >= 1)
    assert upstream.requests("/v1/models") == []


@pytest.mark.parametrize(("state", "status", "type_", "code", "raised"), REFUSED)
def test_openais_client_raises_the_matching_exception_after_one_try(
    proxy, holder, state, status, type_, code, raised
):
    token = holder(state)
    proxy.wait_for_refusals()
    before = proxy.count_calls(outcome="refused")
    with (
        openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1", max_retries=2) as client,
        pytest.raises(raised) as error,
    ):
        client.chat.completions.create(**CHAT)

    assert (error.value.status_code, error.value.code, error.value.type) == (status, code, type_)
    assert error.value.request_id
    wait_for(lambda: proxy.count_calls(outcome="refused") > before)
    proxy.wait_for_refusals()
    assert proxy.count_calls(outcome="refused") == before + 1


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Authorization", ""),),
        (("Authorization", "Bearer"),),
        (("Authorization", "Bearer "),),
        (("Authorization", "Basic eDp5"),),
        (("Authorization", f"Bearer {UNKNOWN} {UNKNOWN}"),),
        (("Authorization", f"Bearer {UNKNOWN}"), ("Authorization", f"Bearer {UNKNOWN}")),
        (("X-Token", UNKNOWN),),
    ],
)
def test_a_request_without_one_bearer_is_told_to_send_it(proxy, headers):
    answer = call(proxy.url, "GET", "/v1/models", *headers)

    assert (answer.status, answer["www-authenticate"]) == (401, "Bearer")
    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", None) and "Authorization: Bearer" in error[
        "message"
    ]
    proxy.wait_for_refusals()


@pytest.mark.parametrize(
    "sent", ["x", "x" * 36, "x" * 8000, "ü" * 36, f"{UNKNOWN}x", f"'{UNKNOWN[2:]}'", "%00" * 12, "None"]
)
def test_what_is_no_token_is_an_unknown_one(proxy, sent):
    answer = call(proxy.url, "GET", "/v1/models", ("Authorization", f"Bearer {sent}"))

    assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_as_http_says(proxy, token, scheme):
    assert call(proxy.url, "GET", "/v1/models", ("Authorization", f"{scheme} {token.secret}")).status == 200


def test_a_used_up_token_is_told_when_to_come_back(proxy, upstream, holder):
    answer = call(proxy.url, "GET", "/v1/models", holder("used up").bearer)

    error = answer.json["error"]
    assert (answer.status, error["type"], error["code"]) == (429, "requests", "rate_limit_exceeded")
    assert 3590 <= int(answer["retry-after"]) <= 3600
    assert 0 <= int(answer["retry-after"]) * 1000 - int(answer["retry-after-ms"]) < 1000
    assert (answer["x-ratelimit-limit-requests"], answer["x-ratelimit-remaining-requests"]) == ("1", "0")
    assert answer["x-ratelimit-reset-requests"] == answer["retry-after"] + "s"
    assert answer.all("x-should-retry") == []
    assert len(upstream.requests("/v1/models")) == 1


def test_openais_client_raises_rate_limit_error_for_a_used_up_token(proxy, holder):
    with (
        openai.OpenAI(api_key=holder("used up").secret, base_url=f"{proxy.url}/v1", max_retries=0) as client,
        pytest.raises(openai.RateLimitError) as error,
    ):
        client.models.list()

    assert error.value.code == "rate_limit_exceeded" and int(error.value.response.headers["retry-after"]) > 3000


def test_a_refused_key_is_the_operators_fault_and_not_the_tokens(proxy, upstream):
    token = proxy.issue_token(proxy.create_project(openai_api_key="not-what-openai-gave-out"))
    with (
        openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1", max_retries=2) as client,
        pytest.raises(openai.InternalServerError) as error,
    ):
        client.models.list()

    assert (error.value.status_code, error.value.code, error.value.type) == (
        502,
        "upstream_auth_failed",
        "server_error",
    )
    assert error.value.response.headers["x-should-retry"] == "false"
    (record,) = proxy.wait_for_records(1, token)
    assert (record["upstream_status"], record["status_code"], record["outcome"]) == (401, 502, "upstream_failed")
    assert len(upstream.requests("/v1/models")) == 1


def test_an_upstream_that_refuses_the_connection_is_a_502(proxy, holder):
    token = holder("unreachable")
    with (
        openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1", max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as error,
    ):
        client.models.list()

    assert (error.value.status_code, error.value.code) == (502, "upstream_unreachable")
    (record,) = proxy.wait_for_records(1, token)
    assert (record["outcome"], record["upstream_status"], record["bytes_out"] > 0) == ("upstream_failed", None, True)


def test_an_upstream_that_hangs_up_before_it_answers_is_a_502(proxy, upstream, token):
    answer = call(proxy.url, "POST", "/v1/echo", token.bearer, ("x-mock-drop", "1"), body=b"x")

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    assert proxy.record_of(answer["x-request-id"])["outcome"] == "upstream_failed"


def test_a_body_over_the_limit_is_refused_before_it_is_sent(impatient_proxy, upstream):
    token = impatient_proxy.issue_token()
    with (
        openai.OpenAI(api_key=token.secret, base_url=f"{impatient_proxy.url}/v1", max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as error,
    ):
        client.files.create(file=b"x" * 2_000_000, purpose="batch")

    assert (error.value.status_code, error.value.code) == (413, "request_too_large")
    assert upstream.requests("/v1/files") == []


def test_a_chunked_body_is_refused_where_it_goes_over_the_limit(impatient_proxy, upstream):
    token = impatient_proxy.issue_token()

    def pieces():
        for _ in range(40):
            yield b"x" * 50_000

    with openai.OpenAI(api_key=token.secret, base_url=f"{impatient_proxy.url}/v1", max_retries=0) as client:
        answer = client._client.post("/echo", content=pieces(), headers={"Authorization": f"Bearer {token.secret}"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    upstream.wait_for("client_gone", path="/v1/echo")
    record = impatient_proxy.record_of(answer.headers["x-request-id"])
    assert (record["outcome"], record["status_code"]) == ("refused", 413)
    assert record["token"] == token.id


def test_a_head_that_is_refused_has_no_body(proxy):
    answer = call(proxy.url, "HEAD", "/v1/models", ("Authorization", f"Bearer {UNKNOWN}"))

    assert (answer.status, answer.body) == (401, b"")
    proxy.wait_for_refusals()


def test_the_largest_body_that_is_allowed_passes(impatient_proxy):
    token = impatient_proxy.issue_token()

    assert call(impatient_proxy.url, "POST", "/v1/echo", token.bearer, body=b"x" * 1_000_000).status == 200
    assert call(impatient_proxy.url, "POST", "/v1/echo", token.bearer, body=b"x" * 1_000_001).status == 413
