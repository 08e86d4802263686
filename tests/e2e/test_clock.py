"""The clock is set back and forward under the running product: limits hold, and nothing that runs notices."""

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.databases import POSTGRESQL, execute
from tests.http_by_hand import HandClient, call
from tests.meters import DOLLAR, UsingUpstream, add_meter, asking, rule, settled
from tests.servers import DEPLOYED, Server, Token, wait_for

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
STREAM = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
JSON = ("Content-Type", "application/json")
BODY = asking("gpt-4.1", used=(1000, 100))
LIMIT = 5

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian: libfaketime)")


# A database on PostgreSQL tells the time itself: here by a function that takes the place of its own.
TELLING = """
CREATE SCHEMA telling;
CREATE TABLE telling.ahead (by interval);
INSERT INTO telling.ahead VALUES ('0');
CREATE FUNCTION telling.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
    'SELECT pg_catalog.clock_timestamp() + by FROM telling.ahead';
DO $$BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = public, telling, pg_catalog', current_database());
END$$
"""


class Clock:
    """What a server's processes take for the time of day; what only measures time is left alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: str | None = None
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

    def move_database_too(self, url: str) -> None:
        """Set that of this database as well from here on, in `show`."""
        execute(url, TELLING)
        self._database = url

    def show(self, moment: datetime) -> None:
        """Let it be this moment."""
        ahead_s = (moment - datetime.now(UTC)).total_seconds()
        if self._database:
            execute(self._database, f"UPDATE telling.ahead SET by = '{ahead_s} seconds'")
        self.set(f"{ahead_s:+.6f}")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def server(upstream, tmp_path, clock: Clock) -> Iterator[Server]:
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, **clock.settings) as server:
        yield server
    assert "Traceback" not in server.output()


@pytest.fixture
def calendar_server(upstream, tmp_path, clock: Clock, request) -> Iterator[Server]:
    """A server whose database goes by the clock, too."""
    settings = {"UPSTREAM_URL": upstream.url, **clock.settings}
    if request.config.getoption("--database") == POSTGRESQL:
        settings["DATABASE_URL"] = url = request.getfixturevalue("postgres_server").new_database()
        clock.move_database_too(url)
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
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
    wait_for(lambda: server.manage("GET", usage)[1]["total"]["requests"] == 3, otherwise=server.output)


@pytest.mark.parametrize(("begun", "ended"), [("+0", "+400d"), ("+400d", "+0"), ("+400d", "+400d")])
def test_a_call_of_a_node_that_is_four_hundred_days_ahead_is_charged_once_and_holds_nothing(
    server, clock, begun, ended
):
    with UsingUpstream() as using, ThreadPoolExecutor() as pool:
        clock.set("+60d")  # a year is the longest life, and 400 days must be within it
        token = server.issue_token(server.create_project(base_url=using.url), duration_hours=24 * 365)
        meters = [add_meter(server, token, period=period) for period in ("day", "month", "total")]

        def chat(**asked):
            body = asking("gpt-4.1", used=(1000, 100), **asked)
            return call(server.url, "POST", "/v1/chat/completions", token.bearer, body=body)

        clock.set(begun)
        running = pool.submit(chat, waits=True)
        wait_for(lambda: using.seen)
        clock.set(ended)
        using.goes_on.set()
        assert running.result().status == 200
        spent = [settled(server, meter).spent for meter in meters]
        clock.set("+0")

        assert spent == [2800] * 3
        assert chat().status == 200
        # A day or a month that its clock alone was in has ended with that; what goes on has both calls.
        again = [settled(server, meter).spent for meter in meters]
        assert set(again[:2]) <= {2800, 5600} and again[2] == 5600


AMSTERDAM = ZoneInfo("Europe/Amsterdam")


def at(text: str) -> datetime:
    """A moment by what clocks in Amsterdam show; `+` after it, the second time that they do."""
    local = datetime.fromisoformat(text.rstrip("+")).replace(tzinfo=AMSTERDAM, fold=text.endswith("+"))
    return local.astimezone(UTC)


@pytest.mark.parametrize(
    ("period", "hours", "within", "end"),
    [
        (
            "day",
            23,
            ["2027-03-28T00:00:01", "2027-03-28T01:59:59", "2027-03-28T03:00:01", "2027-03-28T23:58:00"],
            "2027-03-29T00:00:00",
        ),
        (
            "day",
            25,
            ["2027-10-31T00:00:01", "2027-10-31T02:30:00", "2027-10-31T02:30:00+", "2027-10-31T23:58:00"],
            "2027-11-01T00:00:00",
        ),
        (
            "month",
            31 * 24 + 1,
            ["2027-10-01T00:00:01", "2027-10-31T02:30:00", "2027-10-31T02:30:00+", "2027-10-31T23:58:00"],
            "2027-11-01T00:00:00",
        ),
    ],
    ids=["the day of 23 hours", "the day of 25 hours", "the month with that day"],
)
def test_a_budget_begins_anew_at_local_midnight_and_once(calendar_server, clock, period, hours, within, end):
    server, end = calendar_server, at(end)
    begin = end - timedelta(hours=hours)
    with UsingUpstream() as using:
        clock.show(begin - timedelta(days=1))
        token = server.issue_token(server.create_project(base_url=using.url), duration_hours=24 * 40)
        meter = add_meter(server, token, period=period, zone="Europe/Amsterdam")

        def spent_after_a_call(moment: datetime) -> tuple[int, str | None]:
            clock.show(moment)
            rule(server, token)  # what a worker remembers of a token for a minute is of another day then
            answer = call(server.url, "POST", "/v1/chat/completions", token.bearer, body=BODY)
            assert answer.status == 200, answer.body
            return settled(server, meter).spent, answer["x-proxy-budget-reset"]

        def told(moment: datetime) -> str:
            return f"{moment:%Y-%m-%dT%H:%M:%SZ}"

        assert spent_after_a_call(begin - timedelta(minutes=2)) == (2800, told(begin))
        for calls, moment in enumerate(map(at, within), 1):
            assert spent_after_a_call(moment) == (2800 * calls, told(end))
        spent, resets_at = spent_after_a_call(end + timedelta(seconds=1))
        assert spent == 2800 and resets_at > told(end)


def test_a_dear_call_of_the_day_before_keeps_no_chats_of_the_next_one_out(calendar_server, clock):
    server = calendar_server
    with UsingUpstream() as using:
        token = server.issue_token(server.create_project(base_url=using.url), duration_hours=72)
        meter = add_meter(server, token, amount=5 * DOLLAR)

        def chat(**asked):
            body = asking("gpt-5", **({"used": (800, 900)} | asked))
            return call(server.url, "POST", "/v1/chat/completions", token.bearer, body=body)

        assert [chat().status for _ in range(5)] == [200] * 5
        assert chat(used=(800, 128_000)).status == 200
        assert settled(server, meter).spent == 5 * 10_000 + 1_281_000
        clock.show(datetime.now(UTC) + timedelta(days=1))
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
