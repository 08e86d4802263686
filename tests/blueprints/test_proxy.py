"""The proxy's view without a server: requests-mock in the upstream's place, and one record for every exit."""

import gc
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import requests_mock
from flask import Flask
from flask.testing import FlaskClient
from gevent import GreenletExit
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from app import create_app
from blueprints import proxy
from config import Settings
from llmproxy import upstream as upstream_module
from llmproxy.call import Call
from llmproxy.headers import Headers
from llmproxy.keyring import SealBroken
from services import Services
from tests.blueprints.conftest import UPSTREAM_KEY, UPSTREAM_URL, Operator, close
from tests.mocked_upstream import MockedUpstream, RawMock
from tests.servers import calls_in

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "gpt-4o-mini",
    "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
}


@pytest.fixture(autouse=True)
def upstream(monkeypatch: pytest.MonkeyPatch) -> MockedUpstream:
    """Every call to the upstream; one that a test did not foresee fails it."""
    adapter = MockedUpstream()
    monkeypatch.setattr(upstream_module, "UpstreamAdapter", lambda *_: adapter)
    return adapter


@pytest.fixture
def token(operator: Operator) -> dict[str, Any]:
    return operator.issue_token(operator.create_project())


def as_server(environ: dict[str, Any]) -> dict[str, Any]:
    """The environ with what both servers add to it: the headers as sent."""
    names = {key: key[5:].replace("_", "-").title() for key in environ if key.startswith("HTTP_")}
    return environ | {
        "llmproxy.headers": [(name, environ[key]) for key, name in names.items()],
        "llmproxy.trailers": [],
        "llmproxy.sender": lambda: None,
    }


class Caller:
    """Calls `/v1/…` with a token, and reads the records."""

    def __init__(self, client: FlaskClient, token: dict[str, Any], data_dir: Path) -> None:
        self._client = client
        self._log = data_dir / "api_logs.jsonl"
        self.secret = token["token"]

    def call(self, method: str = "POST", target: str = CHAT, data: bytes = b"{}", **headers: str) -> TestResponse:
        """One call; `headers` in the form of WSGI's environ."""
        environ = as_server({"RAW_URI": target, "HTTP_AUTHORIZATION": f"Bearer {self.secret}"} | headers)
        path = "/" + urlsplit(target).path.lstrip("/")
        return self._client.open(path, method=method, data=data, environ_overrides=environ, buffered=True)

    def records(self) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines]


@pytest.fixture
def caller(client: FlaskClient, token: dict[str, Any], settings: Settings) -> Caller:
    return Caller(client, token, settings.data_dir)


def test_a_call_goes_up_with_the_projects_key_and_its_answer_comes_back(
    app: Flask, caller: Caller, upstream: MockedUpstream, token: dict[str, Any]
) -> None:
    upstream.register_uri(
        "POST", UPSTREAM_URL + CHAT, json=ANSWER, headers=JSON | {"X-Request-Id": "req_1", "Set-Cookie": "a=b"}
    )
    response = caller.call(target=CHAT + "?a=%2F", HTTP_X_CUSTOM="1", HTTP_COOKIE="session=1")

    assert (response.status_code, response.json) == (200, ANSWER)
    assert "set-cookie" not in response.headers
    sent = upstream.last_request
    assert (sent.headers["Authorization"], sent.headers["X-Custom"]) == (f"Bearer {UPSTREAM_KEY}", "1")
    assert "Cookie" not in sent.headers
    assert sent.url == UPSTREAM_URL + CHAT + "?a=%2F"
    [record] = caller.records()
    assert record["request_id"] == response.headers["x-proxy-request-id"]
    assert record | {"timestamp": "", "request_id": "", "duration_ms": 0, "ttft_ms": 0} == {
        "timestamp": "",
        "request_id": "",
        "token": token["id"],
        "project_id": token["project_id"],
        "endpoint": CHAT,
        "method": "POST",
        "status_code": 200,
        "duration_ms": 0,
        "metadata": ANSWER["usage"] | {"model": "gpt-4o-mini", "created": 1700000000},
        "outcome": "complete",
        "stream": False,
        "ttft_ms": 0,
        "upstream_status": 200,
        "upstream_request_id": "req_1",
        "bytes_in": 2,
        "bytes_out": len(json.dumps(ANSWER)),
        "usage_source": "reported",
        "error": None,
        "cost_usd": 0.000009,
        "cost_source": "reported",
        "price_date": Services.of(app).prices.date,
        "service_tier": None,
        "requested_model": None,
        "client_address": "127.0.0.1",
        "user_agent": f"Werkzeug/{version('werkzeug')}",
    }


def test_a_project_with_a_base_url_calls_that(
    client: FlaskClient, operator: Operator, settings: Settings, upstream: MockedUpstream
) -> None:
    project = operator.create_project(base_url="http://models.local:9/openai/v1/")
    upstream.register_uri("GET", "http://models.local:9/openai/v1/models", json={}, headers=JSON)

    assert Caller(client, operator.issue_token(project), settings.data_dir).call("GET", "/v1/models").json == {}
    assert upstream.last_request.headers["Host"] == "models.local:9"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "get"])
def test_every_method_is_forwarded(method: str, caller: Caller, upstream: MockedUpstream) -> None:
    upstream.register_uri(requests_mock.ANY, UPSTREAM_URL + "/v1/x", text="y")

    assert caller.call(method, "/v1/x", b"").status_code == 200
    assert caller.records()[0]["method"] == method


@pytest.mark.parametrize("status", [200, 201, 299, 301, 400, 403, 404, 429, 500, 503])
def test_any_status_but_401_passes_as_it_is(status: int, caller: Caller, upstream: MockedUpstream) -> None:
    upstream.register_uri(
        "POST", UPSTREAM_URL + CHAT, text="text", status_code=status, reason="A Reason", headers={"Location": "/x"}
    )
    response = caller.call()

    assert (response.status, response.text) == (f"{status} A Reason", "text")
    assert len(upstream.request_history) == 1
    assert (caller.records()[0]["status_code"], caller.records()[0]["outcome"]) == (status, "complete")


def test_the_upstreams_401_is_the_operators_trouble(
    caller: Caller, upstream: MockedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.register_uri(
        "POST", UPSTREAM_URL + CHAT, status_code=401, text=f"Incorrect API key provided: {UPSTREAM_KEY}"
    )
    response = caller.call()

    assert (response.status_code, response.json["error"]["code"]) == (502, "upstream_auth_failed")
    assert response.headers["x-should-retry"] == "false"
    [record] = caller.records()
    assert (record["status_code"], record["upstream_status"], record["outcome"]) == (502, 401, "upstream_failed")
    assert UPSTREAM_KEY not in response.text + caplog.text + json.dumps(record)


@pytest.mark.parametrize(
    ("error", "status", "code", "outcome"),
    [
        (requests.ConnectionError("x"), 502, "upstream_unreachable", "upstream_failed"),
        (requests.exceptions.SSLError("x"), 502, "upstream_unreachable", "upstream_failed"),
        (requests.exceptions.ChunkedEncodingError("x"), 502, "upstream_unreachable", "upstream_failed"),
        (requests.ConnectTimeout("x"), 504, "upstream_timeout", "upstream_timeout"),
        (requests.ReadTimeout("x"), 504, "upstream_timeout", "upstream_timeout"),
    ],
)
def test_an_upstream_that_cannot_be_reached_is_told_and_recorded(
    error: Exception, status: int, code: str, outcome: str, caller: Caller, upstream: MockedUpstream
) -> None:
    upstream.register_uri("POST", UPSTREAM_URL + CHAT, exc=error)
    response = caller.call()

    assert (response.status_code, response.json["error"]["code"]) == (status, code)
    [record] = caller.records()
    assert (record["outcome"], record["error"]) == (outcome, {"code": code, "type": "server_error"})
    assert response.headers["x-request-id"] == response.headers["x-proxy-request-id"] == record["request_id"]


@pytest.mark.parametrize(
    ("environ", "status", "code"),
    [
        ({"HTTP_AUTHORIZATION": ""}, 401, None),
        ({"HTTP_AUTHORIZATION": "Bearer 00000000-0000-4000-8000-000000000000"}, 401, "invalid_api_key"),
        ({"RAW_URI": "/v1/../manage/tokens"}, 400, None),
        ({"RAW_URI": "http://elsewhere/v1/models", "HTTP_HOST": "localhost"}, 400, None),
        ({"CONTENT_LENGTH": "x"}, 400, None),
        ({"CONTENT_LENGTH": "-1"}, 400, None),
        ({"CONTENT_LENGTH": "+1"}, 400, None),
        ({"CONTENT_LENGTH": "9" * 5000}, 400, None),
        ({"CONTENT_LENGTH": str(512 * 1024 * 1024 + 1)}, 413, "request_too_large"),
        ({"HTTP_X_A": "a\r\nb"}, 400, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_has_its_status_its_code_and_its_record(
    environ: dict[str, str], status: int, code: str | None, caller: Caller
) -> None:
    response = caller.call(**environ)

    assert (response.status_code, response.json["error"]["code"]) == (status, code)
    assert response.content_type == "application/json"
    [record] = caller.records()
    assert (record["status_code"], record["outcome"], record["error"]["code"]) == (status, "refused", code)
    assert record["bytes_out"] == len(response.data)


def test_an_expired_or_revoked_token_is_named_in_its_record(
    caller: Caller, operator: Operator, token: dict[str, Any], upstream: MockedUpstream
) -> None:
    operator.call("DELETE", f"/tokens/{token['id']}")

    assert caller.call().json["error"]["code"] == "token_revoked"
    assert (caller.records()[0]["token"], caller.records()[0]["project_id"]) == (token["id"], token["project_id"])
    assert upstream.request_history == []


def test_a_refusal_to_head_has_no_body(caller: Caller) -> None:
    response = caller.call("HEAD", "/v1/models", HTTP_AUTHORIZATION="")

    assert (response.status_code, response.data) == (401, b"")
    assert len(caller.records()) == 1


def test_a_process_that_takes_no_calls_any_more_says_when_to_come_back(app: Flask, caller: Caller) -> None:
    Services.of(app).refusing.set()
    response = caller.call()

    assert (response.status_code, response.json["error"]["code"]) == (503, "proxy_draining")
    assert response.headers["retry-after"] == "1"


def test_a_call_that_is_told_to_end_while_it_is_still_ours_ends_in_words(
    app: Flask, caller: Caller, token: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise GreenletExit

    monkeypatch.setattr(type(Services.of(app).admission), "api_key", killed)
    response = caller.call()

    assert (response.status_code, response.json["error"]["code"]) == (503, "proxy_draining")
    [record] = caller.records()
    assert (record["token"], record["status_code"], record["outcome"]) == (token["id"], 503, "refused")


def test_a_key_that_cannot_be_opened_refuses_in_the_name_of_its_token(
    app: Flask, caller: Caller, token: dict[str, Any], upstream: MockedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SealBroken("damaged")

    monkeypatch.setattr(Services.of(app).admission, "_open", broken)
    response = caller.call()

    assert (response.status_code, response.json["error"]["code"]) == (503, "auth_unavailable")
    [record] = caller.records()
    assert (record["token"], record["project_id"]) == (token["id"], token["project_id"])
    assert upstream.request_history == []


@pytest.mark.sqlite
def test_a_database_that_is_gone_refuses_nobodys_token(
    app: Flask, caller: Caller, settings: Settings, upstream: MockedUpstream
) -> None:
    (settings.data_dir / "llm-proxy.db").rename(settings.data_dir / "gone.db")
    response = caller.call()

    assert (response.status_code, response.json["error"]["code"]) == (503, "auth_unavailable")
    assert upstream.request_history == []


def test_a_strict_log_that_cannot_be_written_refuses_before_forwarding(
    settings: Settings, token: dict[str, Any], upstream: MockedUpstream
) -> None:
    strict = create_app(replace(settings, log_strict=True))
    try:
        Services.of(strict).log.path = settings.data_dir / "missing" / "api_logs.jsonl"
        response = Caller(strict.test_client(), token, settings.data_dir).call()
    finally:
        close(strict)

    assert (response.status_code, response.json["error"]["code"]) == (503, "log_unavailable")
    assert upstream.request_history == []


def test_a_fault_of_ours_is_a_500_with_a_record(
    app: Flask, caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(type(Services.of(app).admission), "admit", broken)
    response = caller.call()

    assert (response.status_code, response.json["error"]["type"]) == (500, "server_error")
    assert "a fault" not in response.text
    assert "a fault" in caplog.text
    assert len(caller.records()) == 1


def test_a_query_and_credentials_in_a_target_are_never_recorded(
    caller: Caller, settings: Settings, upstream: MockedUpstream
) -> None:
    upstream.register_uri("POST", UPSTREAM_URL + "/v1/x")
    caller.call(target="/v1/x?api_key=planted-secret")
    caller.call(target="http://user:planted-secret@elsewhere/v1/x?planted-secret")

    assert [record["endpoint"] for record in caller.records()] == ["/v1/x", "/v1/x"]
    assert "planted-secret" not in (settings.data_dir / "api_logs.jsonl").read_text()


def test_an_absolute_target_for_this_host_is_recorded_by_its_path(caller: Caller, upstream: MockedUpstream) -> None:
    upstream.register_uri("POST", UPSTREAM_URL + CHAT, json=ANSWER, headers=JSON)

    assert caller.call(target=f"http://localhost{CHAT}", HTTP_HOST="localhost").status_code == 200
    assert caller.records()[0]["endpoint"] == CHAT
    assert caller.records()[0]["usage_source"] == "reported"


@pytest.mark.parametrize("path", ["/v1", "/v2/models", "/v1models", "/chat/completions"])
def test_what_is_not_below_v1_is_not_found_in_openais_form(path: str, caller: Caller) -> None:
    response = caller.call("POST", path)

    assert response.status_code == 404
    assert response.json["error"]["type"] == "invalid_request_error"
    assert response.json["error"]["message"].endswith("The API is below /v1: base_url=http://localhost/v1")


def environ_of(caller: Caller) -> dict[str, Any]:
    """Of a call, as a server gives it to the application."""
    return as_server(
        {
            "REQUEST_METHOD": "POST", "RAW_URI": CHAT, "PATH_INFO": CHAT, "SERVER_NAME": "x", "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
            "HTTP_AUTHORIZATION": f"Bearer {caller.secret}", "HTTP_HOST": "x",
        }
    )  # fmt: skip


def test_a_server_that_refuses_the_head_still_ends_the_call(
    app: Flask, caller: Caller, upstream: MockedUpstream
) -> None:
    upstream.register_uri("POST", UPSTREAM_URL + CHAT, json=ANSWER)

    def start_response(*_: object) -> Callable[[bytes], None]:
        raise ValueError("this header cannot be sent")

    with pytest.raises(ValueError, match="this header"):
        app(environ_of(caller), start_response)

    assert [record["outcome"] for record in caller.records()] == ["client_closed"]


@pytest.mark.parametrize(
    ("bearer", "answer"),
    [("good", {"json": ANSWER}), ("good", {"exc": requests.ConnectionError("x")}), ("bad", {"json": ANSWER})],
    ids=["whole", "upstream fails", "refused"],
)
def test_a_call_that_has_ended_leaves_nothing_to_the_garbage_collector(
    bearer: str, answer: dict[str, Any], app: Flask, caller: Caller, upstream: MockedUpstream
) -> None:
    upstream.register_uri("POST", UPSTREAM_URL + CHAT, **answer)
    environ = environ_of(caller)
    if bearer == "bad":
        environ["HTTP_AUTHORIZATION"] = "Bearer 00000000-0000-4000-8000-000000000000"
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        body: Any = app(environ, lambda status, headers: lambda data: None)
        list(body)
        body.close()
        del body
        gc.collect()
        left = [found for found in gc.garbage if isinstance(found, Call)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()

    assert left == []


# Whatever happens, one record


class Stream(io.BytesIO):
    """A client's body that breaks off with an error after some reads."""

    def __init__(self, data: bytes, error: Exception | None) -> None:
        super().__init__(data)
        self._error = error

    def read1(self, size: int | None = -1, /) -> bytes:
        data = super().read1(size)
        if not data and self._error:
            raise self._error
        return data


class Raw:
    """The raw side of an upstream's response, whose body breaks off with an error after some pieces."""

    is_drained = False
    trailers: Headers = []

    def __init__(self, headers: Headers, pieces: list[bytes], error: Exception | None) -> None:
        self.headers = headers
        self._pieces = list(pieces)
        self._error = error

    def let_go_of_head(self) -> None:
        self.headers = []

    def has_body_bytes(self) -> bool:
        return bool(self._pieces)

    def close(self) -> None:
        pass

    def read1(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._error:
            raise self._error
        return b""


@hypothesis_settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    body=st.sampled_from([b"", b"{}", b'{"stream": true}', b"x" * 100_000]),
    body_error=st.sampled_from([None, ConnectionResetError(), TimeoutError(), ValueError("bad chunk")]),
    chunked=st.booleans(),
    short=st.booleans(),
    bearer=st.sampled_from(["good", "unknown", "none"]),
    status=st.sampled_from([200, 204, 304, 401, 429, 500]),
    content_type=st.sampled_from(["application/json", "text/event-stream", "audio/mpeg"]),
    pieces=st.lists(st.sampled_from([b"{", b'{"usage": {"total_tokens": -1}}', b"data: x\n\n", b"\x00"]), max_size=3),
    error=st.sampled_from([None, requests.ConnectionError("x"), requests.ReadTimeout("x")]),
    opens=st.sampled_from([None, requests.ConnectionError("x"), requests.ConnectTimeout("x"), RuntimeError("fault")]),
    reads=st.integers(0, 4),
    method=st.sampled_from(["GET", "POST", "HEAD"]),
)
def test_every_call_leaves_exactly_one_record_whatever_happens(
    app: Flask, caller: Caller, monkeypatch: pytest.MonkeyPatch, **course: Any
) -> None:
    def send(sent: Any, **_: object) -> requests.Response:
        if sent.body.held is None:
            assert sum(map(len, sent.body)) <= len(course["body"])
        if course["opens"]:
            raise course["opens"]
        response = requests.Response()
        response.status_code = course["status"]
        response.headers["Content-Type"] = course["content_type"]
        response.raw = Raw(list(response.headers.items()), course["pieces"], course["error"])
        return response

    session = Services.of(app).upstream._session
    monkeypatch.setattr(session, "send", send)
    before = calls_in(caller.records())
    environ: dict[str, Any] = {
        "REQUEST_METHOD": course["method"], "RAW_URI": CHAT, "PATH_INFO": CHAT, "SERVER_NAME": "x",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http",
        "wsgi.input": Stream(course["body"], course["body_error"]),
        "HTTP_AUTHORIZATION": {
            "good": f"Bearer {caller.secret}", "unknown": f"Bearer {'0' * 36}", "none": "",
        }[course["bearer"]],
    }  # fmt: skip
    if course["chunked"]:
        environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    else:
        environ["CONTENT_LENGTH"] = str(len(course["body"]) + (7 if course["short"] else 0))
    body: Any = app(as_server(environ), lambda status, headers: lambda data: None)
    try:
        for _, _piece in zip(range(course["reads"]), body, strict=False):
            pass
    except OSError:
        pass
    finally:
        body.close()
        body.close()

    Services.of(app).log.write_out()
    assert calls_in(caller.records()) == before + 1


@pytest.fixture(autouse=True)
def nothing_left_under_way(upstream: MockedUpstream, app: Flask) -> Iterator[None]:
    yield
    assert list(Services.of(app).live) == []


@pytest.fixture(autouse=True)
def nothing_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert UPSTREAM_KEY not in caplog.text


# What is asked for on the caller's behalf


def test_usage_that_a_project_asks_for_is_taken_out_again(
    client: FlaskClient, operator: Operator, settings: Settings, upstream: MockedUpstream
) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
    first, last = b'data: {"choices":[{"delta":{}}],"usage":null}\n\n', b"data: [DONE]\n\n"
    sent_down = {"Content-Type": "text/event-stream", "Content-Length": str(len(first + usage + last))}
    upstream.register_uri("POST", UPSTREAM_URL + CHAT, content=first + usage + last, headers=sent_down)
    caller = Caller(client, operator.issue_token(operator.create_project(stream_usage="ask")), settings.data_dir)
    response = caller.call(data=b'{"stream":true}', HTTP_ACCEPT_ENCODING="br")

    assert response.data == first + last
    assert "content-length" not in response.headers
    assert json.loads(upstream.last_request.body.held)["stream_options"] == {"include_usage": True}
    assert upstream.last_request.headers["Accept-Encoding"] == "identity"
    assert caller.records()[0]["metadata"]["total_tokens"] == 3


@pytest.mark.parametrize("data", [b'{"stream":false}', b"{", b""])
def test_a_body_that_streams_nothing_goes_up_as_it_is(
    data: bytes, client: FlaskClient, operator: Operator, settings: Settings, upstream: MockedUpstream
) -> None:
    upstream.register_uri("POST", UPSTREAM_URL + CHAT, json=ANSWER, headers=JSON)
    caller = Caller(client, operator.issue_token(operator.create_project(stream_usage="ask")), settings.data_dir)

    assert caller.call(data=data, HTTP_ACCEPT_ENCODING="br").json == ANSWER
    assert upstream.last_request.body.held == data
    assert upstream.last_request.headers["Accept-Encoding"] == "br"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_head_whose_body_is_still_to_come_is_sent_at_once(
    is_there: bool, caller: Caller, upstream: MockedUpstream, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.register_uri("POST", UPSTREAM_URL + CHAT, json=ANSWER)
    monkeypatch.setattr(RawMock, "has_body_bytes", lambda self: is_there)
    written: list[bytes] = []
    body: Any = app(environ_of(caller), lambda status, headers: written.append)
    body.close()

    assert written == ([] if is_there else [b""])


# Which paths are forwarded


@pytest.mark.parametrize(
    ("path", "is_forwarded"),
    [
        ("/v1/models", True), ("/v1/", True), ("/v1//x", True), ("//v1/x", True), ("///v1/x", True),
        ("/v1/a\nb", True), ("/v1/\xff", True),
        ("/v1", False), ("/V1/x", False), ("/v1models", False), ("/x/v1/y", False), ("", False),
        ("/admin//v1/x", False),
    ],
)  # fmt: skip
def test_what_stands_below_v1_is_forwarded_and_nothing_else(path: str, is_forwarded: bool) -> None:
    assert proxy.serves(path) is is_forwarded


def test_the_route_is_told_among_the_others(app: Flask) -> None:
    [rule] = [rule for rule in app.url_map.iter_rules() if rule.endpoint == "proxy.forward"]

    assert (rule.rule, rule.methods) == ("/v1/<path:rest>", None)
