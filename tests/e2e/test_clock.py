"""The clock is set back and forward under the running product: limits hold, and nothing that runs notices."""

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.http_by_hand import HandClient, call
from tests.meters import DOLLAR, UsingUpstream, add_meter, asking, settled
from tests.servers import DEPLOYED, Server, Token, wait_for

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
STREAM = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
JSON = ("Content-Type", "application/json")
LIMIT = 5

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian: libfaketime)")


class Clock:
    """What a server's processes take for the time of day; what only measures time is left alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set("+0")
        self.settings = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        """Against the right time, as `+25h`. Put in place whole, for the processes read it at every look."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{offset}\n")
        new.rename(self._path)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def server(upstream, tmp_path, clock: Clock) -> Iterator[Server]:
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, **clock.settings) as server:
        yield server
    assert "Traceback" not in server.output()


def statuses(server: Server, token: Token, times: int = LIMIT + 2) -> list[int]:
    return [call(server.url, "GET", "/v1/models", token.bearer).status for _ in range(times)]


@pytest.mark.parametrize("jump", ["-3h", "+30m"])
def test_a_clock_that_is_set_within_a_window_lets_no_call_more_pass(server, clock, jump):
    token = server.issue_token(rate_limit=LIMIT, duration_hours=48)
    assert statuses(server, token, 3) == [200] * 3
    clock.set(jump)

    assert statuses(server, token) == [200] * 2 + [429] * 5
    clock.set("+0")
    assert statuses(server, token, 1) == [429]


def test_a_clock_that_was_ahead_ends_tokens_and_windows_until_it_is_right_again(server, clock):
    short, long = (server.issue_token(rate_limit=LIMIT, duration_hours=hours) for hours in (24, 48))
    assert statuses(server, long) == [200] * 5 + [429] * 2
    clock.set("+25h")

    expired = call(server.url, "GET", "/v1/models", short.bearer)
    assert (expired.status, expired.json["error"]["code"]) == (401, "token_expired")
    assert statuses(server, long) == [200] * 5 + [429] * 2
    clock.set("+0")
    # What used up its limit in an hour to come waits for that hour; nobody got a third limit.
    assert statuses(server, long, 1) == [429]
    assert statuses(server, short, 1) == [200]


@pytest.mark.parametrize("jump", ["-25h", "+25h"])
def test_a_stream_and_its_record_outlast_a_jump(server, clock, upstream, jump):
    token, gate = server.issue_token(duration_hours=48), str(uuid.uuid4())
    with HandClient(server.url) as client, HandClient(server.url) as kept:
        assert kept.call("GET", "/v1/models", token.bearer).status == 200
        client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-gate", gate), body=STREAM)
        answer = client.read_head()
        client.read_chunk(answer)
        clock.set(jump)
        assert kept.call("GET", "/v1/models", token.bearer).status == 200
        upstream.release(gate, count=100)
        client.read_rest(answer)

    assert answer.body.endswith(b"data: [DONE]\n\n")
    record = server.record_of(answer["x-proxy-request-id"])
    assert record["outcome"] == "complete" and 0 < record["duration_ms"] < 60_000
    clock.set("+0")
    # Every record is summed up, in whichever hour it says that it was.
    begin, end = (f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:00:00Z}" for days in (-2, 2))
    usage = f"/usage?token_id={token.id}&from={begin}&to={end}"
    wait_for(lambda: server.manage("GET", usage)[1]["total"]["requests"] == 3, timeout_s=20, otherwise=server.output)


@pytest.mark.sqlite  # PostgreSQL goes by its own clock, which nobody moves here
def test_a_dear_call_of_the_day_before_keeps_no_chats_of_the_next_one_out(server, clock):
    with UsingUpstream() as using:
        token = server.issue_token(server.create_project(base_url=using.url), duration_hours=72)
        meter = add_meter(server, token, amount=5 * DOLLAR)

        def chat(**asked):
            body = asking("gpt-5", **({"used": (800, 900)} | asked))
            return call(server.url, "POST", "/v1/chat/completions", token.bearer, body=body)

        assert [chat().status for _ in range(5)] == [200] * 5
        assert chat(used=(800, 128_000)).status == 200
        assert settled(server, meter).spent == 5 * 10_000 + 1_281_000
        clock.set("+24h")
        using.seen.clear()
        with ThreadPoolExecutor(30) as pool:
            running = [pool.submit(chat, waits=True) for _ in range(30)]
            wait_for(lambda: len(using.seen) + sum(map(Future.done, running)) == 30)
            at_once = len(using.seen)
            using.goes_on.set()
            statuses = Counter(done.result().status for done in running)

        assert at_once >= 19
        assert statuses == {200: at_once, 429: 30 - at_once}
        assert settled(server, meter).spent == at_once * 10_000
