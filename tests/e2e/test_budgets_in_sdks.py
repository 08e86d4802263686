"""OpenAI's own clients before a budget or a limit that refuses: what they raise, and how often they try."""

import json
import shutil
import subprocess
import time
from typing import Any, NamedTuple

import openai
import pytest

from tests.meters import DOLLAR, add_meter, rule, set_columns
from tests.servers import ROOT, Server, Token, calls_in

NODE_SCRIPT = ROOT / "tests" / "node" / "tries.mjs"
CHAT = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
IN_BACKGROUND = {"model": "gpt-5", "input": "?", "background": True}
IN_BATCH = {"input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


class Told(NamedTuple):
    """The exception and its code, and what each try was told to wait; None where nothing was said."""

    raised: str
    code: str
    waits_ms: list[int | None]


def python_told(url: str, key: str, body: dict[str, Any], resource: str = "chat.completions") -> Told:
    waits: list[int | None] = []

    def note(response: Any) -> None:
        ms = response.headers.get("retry-after-ms")
        waits.append(None if ms is None else int(ms))
        if ms is not None:  # as told, it would wait for a minute
            response.headers["retry-after-ms"] = "1"

    http_client = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, http_client=http_client)
    with client, pytest.raises(openai.APIStatusError) as caught:
        # As a body of its own: the client's signature leaves no member out, and knows no others.
        client.post(f"/{resource.replace('.', '/')}", body=body, cast_to=object)
    return Told(type(caught.value).__name__, str(caught.value.code), waits)


def node_told(url: str, key: str, body: dict[str, Any], resource: str = "chat.completions") -> Told:
    command = ["node", str(NODE_SCRIPT), f"{url}/v1", key, json.dumps(body), resource]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return Told(**json.loads(done.stdout))


no_node = not shutil.which("node") or not (NODE_SCRIPT.parent / "node_modules" / "openai").exists()
SDKS = [
    pytest.param(python_told, id="python"),
    pytest.param(node_told, id="node", marks=pytest.mark.skipif(no_node, reason="no client for Node: make node-sdk")),
]


def is_used_up(proxy: Server, token: Token) -> None:
    add_meter(proxy, token, amount=1, spent=1, period="total", period_end=2**62)


def is_held(proxy: Server, token: Token) -> None:
    add_meter(proxy, token, reserved=DOLLAR, bounds=DOLLAR)


def is_too_small(proxy: Server, token: Token) -> None:
    add_meter(proxy, token, amount=5, reserve="bound")


def has_no_tokens_this_minute(proxy: Server, token: Token) -> None:
    in_55_s = int((time.time() + 55) * 10**6)
    add_meter(proxy, token, unit="tokens", period="minute", amount=1, spent=1, period_end=in_55_s)


def has_a_call_running(proxy: Server, token: Token) -> None:
    rule(proxy, token, {"concurrency": 1})
    set_columns(proxy, "tokens", f"id = '{token.id}'", in_flight=1)


@pytest.mark.parametrize("told", SDKS)
@pytest.mark.parametrize(
    ("refusing", "call", "raised", "code"),
    [
        (is_used_up, (CHAT,), "RateLimitError", "budget_exhausted"),
        (is_too_small, (CHAT,), "RateLimitError", "budget_too_small"),
        (add_meter, (CHAT | {"model": "nobodys-model"},), "PermissionDeniedError", "model_not_priced"),
        (add_meter, ({"messages": []},), "PermissionDeniedError", "model_undetermined"),
        (add_meter, (IN_BATCH, "batches"), "PermissionDeniedError", "endpoint_not_allowed"),
        (add_meter, (IN_BACKGROUND, "responses"), "BadRequestError", "parameter_not_allowed"),
        (add_meter, (CHAT | {"Model": "gpt-5"},), "BadRequestError", "ambiguous_body"),
    ],
)
def test_an_sdk_tries_once_where_no_second_try_would_help(proxy, told, refusing, call, raised, code):
    token = proxy.issue_token()
    refusing(proxy, token)

    assert told(proxy.url, token.secret, *call) == (raised, code, [None])
    proxy.wait_for_records(1, token)
    assert calls_in(proxy.records(token)) == 1


@pytest.mark.parametrize("told", SDKS)
@pytest.mark.parametrize(
    ("refusing", "code", "least_ms", "most_ms"),
    [
        (is_held, "budget_reserved", 10_000, 30_000),
        (has_no_tokens_this_minute, "rate_limit_exceeded", 1, 55_000),
        (has_a_call_running, "concurrency_limit_exceeded", 1000, 3000),
    ],
)
def test_an_sdk_comes_back_twice_for_what_passes(proxy, told, refusing, code, least_ms, most_ms):
    token = proxy.issue_token()
    refusing(proxy, token)

    raised, its_code, waits_ms = told(proxy.url, token.secret, CHAT)

    assert (raised, its_code, len(waits_ms)) == ("RateLimitError", code, 3)
    assert all(least_ms <= wait_ms <= most_ms for wait_ms in waits_ms)
    assert calls_in(proxy.wait_for_records(3, token)) == 3
