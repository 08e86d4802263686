"""Callers whose clients put the token elsewhere: it counts as a bearer there, and never reaches the upstream."""

import openai
import pytest

from tests.http_by_hand import HandClient
from tests.servers import UPSTREAM_KEY, on_both_servers

pytestmark = on_both_servers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


def ask(proxy, *headers):
    with HandClient(proxy.url) as client:
        client.send_request("GET", "/v1/models", *headers)
        return client.read_answer()


@pytest.mark.parametrize("name", ["api-key", "x-api-key", "Api-Key", "X-API-KEY"])
@pytest.mark.parametrize("prefix", ["", "sk-"])
def test_a_token_in_a_keys_header_is_taken_and_goes_no_further(proxy, recorder, token_for, name, prefix):
    token = token_for(recorder.url)
    recorder.answers(OK)
    answer = ask(proxy, (name, prefix + token.secret))
    sent = recorder.received()

    assert answer.status == 200
    assert sent.all("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert token.secret not in str(sent.headers)
    assert proxy.record_of(answer["x-proxy-request-id"])["token"] == token.id


def test_a_bearer_goes_before_keys_headers_which_stay_here_all_the_same(proxy, recorder, token_for):
    token = token_for(recorder.url)
    recorder.answers(OK)
    others = [("api-key", UNKNOWN), ("x-api-key", UNKNOWN)]
    assert ask(proxy, *others, ("Authorization", f"Bearer sk-{token.secret}")).status == 200
    sent = recorder.received()

    assert sent.all("authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert not sent.all("api-key") and not sent.all("x-api-key")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("Authorization", f"Bearer {UNKNOWN}"), ("api-key", "{token}")], "invalid_api_key"),
        ([("Authorization", "Basic eDp5"), ("x-api-key", "{token}")], None),
        ([("api-key", "{token}"), ("api-key", "{token}")], "invalid_api_key"),
        ([("api-key", "Bearer {token}")], None),
        ([("api-key", "")], None),
        ([("api_key", "")], None),
        ([("api-key", UNKNOWN)], "invalid_api_key"),
    ],
)
def test_what_is_no_token_is_refused_as_a_bearer_is(proxy, token, headers, code):
    answer = ask(proxy, *[(name, value.replace("{token}", token.secret)) for name, value in headers])

    assert (answer.status, answer.json["error"]["code"]) == (401, code)


def test_a_token_that_leaked_behind_sk_is_revoked_as_it_is_found(proxy):
    token = proxy.issue_token()

    assert proxy.manage("DELETE", "/tokens", {"token": f"sk-{token.secret}"})[0] == 204
    assert ask(proxy, token.bearer).json["error"]["code"] == "token_revoked"


def test_the_client_for_azure_works_with_a_token(proxy, token):
    with openai.AzureOpenAI(base_url=f"{proxy.url}/v1", api_key=token.secret, api_version="v1") as client:
        assert client.models.list().data
