"""Where a request goes, and with which headers."""

from itertools import islice

import pytest

from benchmark.call import Call, check_endpoint
from benchmark.refused import Refused
from benchmark.target import Target


@pytest.mark.parametrize("endpoint", ["v1/models", "//host/v1", "/v1/a b", ""])
def test_what_is_no_path_is_refused(endpoint):
    with pytest.raises(Refused, match="--endpoint"):
        check_endpoint(endpoint, "http://host")


def test_a_doubled_v1_is_refused():
    with pytest.raises(Refused, match="leave it out"):
        check_endpoint("/v1/models", "http://host/v1/")


def test_headers_of_the_user_replace_those_that_would_be_sent():
    call = Call("/v1/x", (b"{}",), headers=(("accept-encoding", "gzip"), ("X-Extra", "1")))

    assert call.headers_with("t") == {
        "User-Agent": "llm-benchmark",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Authorization": "Bearer t",
        "accept-encoding": "gzip",
        "X-Extra": "1",
    }


def test_a_request_without_a_body_has_no_type_and_without_a_token_no_authorization():
    assert Call("/v1/models", (b"",), method="GET").headers_with(None) == {
        "User-Agent": "llm-benchmark",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }


def test_bodies_and_tokens_go_out_in_turn():
    outgoing = Call("/v1/x", (b"1", b"2", b"3")).outgoing(Target("http://host", ("a", "b")))
    sent = [(body, headers["Authorization"][-1]) for body, headers in islice(outgoing, 7)]

    assert sent == [(b"1", "a"), (b"2", "b"), (b"3", "a"), (b"1", "b"), (b"2", "a"), (b"3", "b"), (b"1", "a")]
