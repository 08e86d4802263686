"""What is refused before a run, and what is filled in."""

import json

import pytest

from benchmark.call import Call, body_of, check_endpoint, read_payload
from benchmark.figures.fail_if import parse
from benchmark.plan import allow_connections, make_plan
from benchmark.refused import Refused
from benchmark.target import Target, read_token


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://host", "http://", "http://ho st", "http://host:0", "http://host:99999",
     "http://user:pass@host", "http://host?x=1", "http://host#x", "http://höst"],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(url):
    with pytest.raises(Refused):
        Target(url, None)


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://api.openai.com/", "http://[::1]:8080/prefix"])
def test_urls_of_servers_are_taken(url):
    assert Target(url, "t").base_url == url


@pytest.mark.parametrize("token", ["", "two\nlines", "schlüssel"])
def test_a_token_that_no_header_can_carry_is_refused(token):
    with pytest.raises(Refused, match="token"):
        Target("http://host", token)


def test_a_token_is_in_no_description_and_in_nothing_that_a_server_says():
    target = Target("http://host", "secret-token")

    assert "secret-token" not in repr(target)
    assert target.without_token("bad key secret-token!") == "bad key [token]!"


@pytest.mark.parametrize("endpoint", ["v1/models", "//host/v1", "/v1/a b", ""])
def test_what_is_no_path_is_refused(endpoint):
    with pytest.raises(Refused, match="--endpoint"):
        check_endpoint(endpoint, "http://host")


def test_a_doubled_v1_is_refused():
    with pytest.raises(Refused, match="leave it out"):
        check_endpoint("/v1/models", "http://host/v1/")


@pytest.mark.parametrize(
    "asked",
    [{"requests": 0}, {"requests": -1}, {"duration_s": 0.0}, {"rate": 0.0}, {"concurrency": 0}, {"warmup": -1},
     {"requests": 5, "concurrency": 6}, {"requests": 5, "duration_s": 1.0}],
)  # fmt: skip
def test_a_plan_that_contradicts_itself_is_refused(asked):
    with pytest.raises(Refused):
        make_plan(**asked)


def test_more_connections_than_the_process_may_have_are_refused():
    with pytest.raises(Refused, match="ulimit"):
        allow_connections(10**9)


@pytest.mark.parametrize(
    ("asked", "requests", "users"),
    [({}, 100, 10), ({"requests": 5}, 5, 5), ({"duration_s": 1.0}, None, 10), ({"rate": 9.0}, 100, 100),
     ({"rate": 9.0, "duration_s": 1.0}, None, 256), ({"requests": 20, "concurrency": 20}, 20, 20)],
)  # fmt: skip
def test_a_plan_has_users_enough_and_never_more_than_requests(asked, requests, users):
    plan = make_plan(**asked)

    assert (plan.requests, plan.concurrency) == (requests, users)


@pytest.mark.parametrize("payload", [b"", b"{", b"[1]", b"NaN", b'"text"', b"\xff"])
def test_a_payload_that_is_no_json_object_is_refused(payload):
    with pytest.raises(Refused, match="--payload"):
        body_of(payload, "/v1/chat/completions", stream=False)


def test_a_payload_is_sent_as_it_stands():
    assert body_of(b'{ "a":1.0 }', "/v1/anything", stream=False) == b'{ "a":1.0 }'


def test_streaming_is_added_to_a_payload_unless_that_says_otherwise():
    assert json.loads(body_of(b'{"a": 1}', "/v1/x", stream=True)) == {"a": 1, "stream": True}
    assert body_of(b'{ "stream" : true }', "/v1/x", stream=True) == b'{ "stream" : true }'
    with pytest.raises(Refused, match="--stream"):
        body_of(b'{"stream": false}', "/v1/x", stream=True)


@pytest.mark.parametrize(
    ("endpoint", "payload", "options"),
    [
        ("/v1/chat/completions", b"{}", {"include_usage": True}),
        ("/v1/completions?x=1", b"{}", {"include_usage": True}),
        ("/openai/deployments/x/chat/completions", b'{"stream_options": null}', {"include_usage": True}),
        ("/v1/chat/completions", b'{"stream_options": {"a": 1}}', {"include_usage": True, "a": 1}),
        ("/v1/chat/completions", b'{"stream_options": {"include_usage": false}}', {"include_usage": False}),
        ("/v1/responses", b"{}", None),
    ],
)
def test_a_stream_that_tells_its_usage_on_demand_is_asked_for_it(endpoint, payload, options):
    assert json.loads(body_of(payload, endpoint, stream=True)).get("stream_options") == options


def test_a_stream_that_was_asked_for_its_usage_is_sent_as_it_stands():
    payload = b'{ "stream" : true, "stream_options": {"include_usage":true} }'

    assert body_of(payload, "/v1/chat/completions", stream=True) == payload


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [("/v1/chat/completions", "messages"), ("/v1/responses", "input"), ("/v1/embeddings?x=1", "input")],
)
def test_known_endpoints_have_a_payload_of_their_kind(endpoint, field):
    assert field in json.loads(body_of(None, endpoint, stream=False))


def test_an_unknown_endpoint_wants_a_payload():
    with pytest.raises(Refused, match="--payload"):
        body_of(None, "/v1/audio/speech", stream=False)


def test_payload_and_token_come_from_files(tmp_path):
    (tmp_path / "payload").write_bytes(b'{"a": 1}')
    (tmp_path / "token").write_text("secret\n")

    assert read_payload(f"@{tmp_path}/payload") == b'{"a": 1}'
    assert read_token(None, str(tmp_path / "token")) == "secret"
    with pytest.raises(Refused, match="No such file"):
        read_payload(f"@{tmp_path}/missing")
    with pytest.raises(Refused, match="contradict"):
        read_token("secret", str(tmp_path / "token"))


def test_headers_of_the_user_replace_those_that_would_be_sent():
    call = Call("/v1/x", b"{}", headers=(("accept-encoding", "gzip"), ("X-Extra", "1")))

    assert call.headers_for(Target("http://host", "t")) == {
        "User-Agent": "llm-benchmark",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Authorization": "Bearer t",
        "accept-encoding": "gzip",
        "X-Extra": "1",
    }


@pytest.mark.parametrize("text", ["", "p99", "p99>", ">5", "p99>five", "p99=5", "p99>5 ms", "a b>1"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(Refused, match="--fail-if"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "breaks"),
    [("a>4", True), ("a>5", False), ("a >= 5", True), ("a<5", False), ("a<=5.0", True), ("a==5", True),
     ("a!=5", False), ("in.side>1", True), ("in.side>3", False), ("in>1", True), ("unknown>1", True),
     ("none>1", True), ("flag>0", True)],
)  # fmt: skip
def test_a_limit_is_broken_by_its_number_and_by_none(text, breaks):
    figures = {"a": 5, "in": {"side": 2.5}, "none": None, "flag": True}

    assert (parse(text).broken_by(figures) is not None) is breaks
