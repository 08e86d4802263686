"""Four workers and one database: limits are exact, and what an operator changes holds for the next request."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.servers import DEPLOYED, WAIT_S, Server, Token, calls_in, wait_for

WORKERS = 4
CLIENTS = 16


@pytest.fixture(scope="module")
def deployed(running_upstream, tmp_path_factory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("workers") / "data"
    settings = {"UPSTREAM_URL": running_upstream.url, "WEB_CONCURRENCY": str(WORKERS), "DATABASE_POOL_SIZE": "4"}
    with Server(DEPLOYED, data_dir, **settings) as server:
        yield server
        assert server.leaks() == []
    assert server.wait() == 0


def test_of_400_parallel_calls_exactly_the_allowed_100_pass(deployed, upstream):
    token = deployed.issue_token(rate_limit=100)

    def use(_: int) -> list[tuple[int, int]]:
        with HandClient(deployed.url) as client:
            answers = [client.call("GET", "/v1/models", token.bearer) for _ in range(400 // CLIENTS)]
        return [(answer.status, len(answer.all("retry-after"))) for answer in answers]

    with ThreadPoolExecutor(CLIENTS) as pool:
        seen = Counter(result for results in pool.map(use, range(CLIENTS)) for result in results)

    assert seen == {(200, 0): 100, (429, 1): 300}
    assert len(upstream.requests("/v1/models")) == 100
    assert deployed.manage("GET", f"/tokens/{token.id}")[1]["request_count"] == 100
    deployed.wait_for_records(400, token)
    outcomes = [deployed.count_calls(token=token.id, outcome=outcome) for outcome in ("complete", "refused")]
    assert outcomes == [100, 300]


def test_four_workers_tell_a_holder_of_its_token_as_often_as_one(deployed):
    def ask(token: Token) -> list[int]:
        with HandClient(deployed.url) as client:
            return [client.call("GET", "/self", token.bearer).status for _ in range(10)]

    begun = now = None
    while begun is None or begun != now:  # what is asked for in two minutes is answered twice as often
        token, begun = deployed.issue_token(), int(time.time()) // 60
        with ThreadPoolExecutor(CLIENTS) as pool:
            seen = Counter(status for statuses in pool.map(ask, [token] * CLIENTS) for status in statuses)
        now = int(time.time()) // 60

    assert seen == {200: 60, 429: 100}


def give_meters(server: Server, token: Token) -> None:
    """So that its calls are judged by what the last look found."""
    meters = [
        {"unit": "usd", "period": "day", "amount": "100"},
        {"unit": "requests", "period": "day", "amount": 99999},
    ]
    assert server.manage("PATCH", f"/tokens/{token.id}", {"meters": meters})[0] == 200


with_and_without_meters = pytest.mark.parametrize("has_meters", [False, True], ids=["plain", "metered"])


@with_and_without_meters
def test_a_secret_is_replaced_under_load_without_a_failed_call(deployed, upstream, has_meters):
    token = deployed.issue_token()
    if has_meters:
        give_meters(deployed, token)
    is_over, ends = threading.Event(), list[tuple[str, int]]()

    def use(name: str, bearer: tuple[str, str]) -> None:
        with HandClient(deployed.url) as client:
            while not is_over.is_set():
                ends.append((name, client.call("GET", "/v1/models", bearer).status))

    with ThreadPoolExecutor(CLIENTS) as pool:
        old = [pool.submit(use, "old", token.bearer) for _ in range(4)]
        wait_for(lambda: ends.count(("old", 200)) > 20)
        status, rotated = deployed.manage("POST", f"/tokens/{token.id}/rotate", {"grace_hours": 24})
        bearer = ("authorization", f"Bearer {rotated['token']}")
        new = [pool.submit(use, "new", bearer) for _ in range(4)]
        seen = ends.count(("old", 200))
        wait_for(lambda: ends.count(("new", 200)) > 20 and ends.count(("old", 200)) > seen + 20)
        is_over.set()
        for each in (*old, *new):
            each.result()

    assert status == 200 and rotated["id"] == token.id
    assert {status for _, status in ends} == {200}
    calls = len(ends)
    assert deployed.manage("GET", f"/tokens/{token.id}")[1]["request_count"] == calls
    records = deployed.wait_for_records(calls, token)
    retired = [record for record in records if record.get("secret") == "retired"]
    assert 20 < len(retired) < calls

    # No grace any more: the first secret ends, too.
    again = deployed.manage("POST", f"/tokens/{token.id}/rotate", {"grace_hours": 0})[1]
    assert [call(deployed.url, "GET", "/v1/models", each).status for each in (token.bearer, bearer)] == [401, 401]
    newest = ("authorization", f"Bearer {again['token']}")
    assert call(deployed.url, "GET", "/v1/models", newest).status == 200


def test_to_revoke_a_token_kills_the_replaced_secret_too(deployed):
    token = deployed.issue_token()
    rotated = deployed.manage("POST", f"/tokens/{token.id}/rotate", {"grace_hours": 168})[1]
    both = (token.bearer, ("authorization", f"Bearer {rotated['token']}"))
    assert [call(deployed.url, "GET", "/v1/models", each).status for each in both] == [200, 200]

    # By the old secret: whoever finds it somewhere has nothing else.
    assert deployed.manage("DELETE", "/tokens", {"token": token.bearer[1].removeprefix("Bearer ")})[0] == 204

    for each in both:
        refused = call(deployed.url, "GET", "/v1/models", each)
        assert refused.status == 401 and b"token_revoked" in refused.body


def test_a_token_without_a_limit_of_its_own_has_that_of_the_setting(upstream, tmp_path):
    for limit in (2, 3):
        settings = {"UPSTREAM_URL": upstream.url, "RATE_LIMIT_PER_HOUR": str(limit)}
        with Server(DEPLOYED, tmp_path / "data", **settings) as server:
            tokens = server.issue_token(), server.issue_token(rate_limit=4)
            passed = [
                [call(server.url, "GET", "/v1/models", token.bearer).status for _ in range(5)].count(200)
                for token in tokens
            ]

        assert passed == [limit, 4]


def test_metrics_are_summed_over_the_workers(deployed, upstream):
    token = deployed.issue_token()

    teapot = ("x-mock-status", "418")
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda _: call(deployed.url, "GET", "/v1/models", token.bearer, teapot), range(80)))

    # A call is counted after its last byte has left.
    deployed.wait_for_records(80, token)
    labels = {"project": token.project_id, "endpoint": "models", "outcome": "complete", "status": "418"}
    assert total(deployed.metrics(), "llmproxy_requests_total", **labels) == 80


class Load:
    """Clients that call without a pause, each noting when it began a call and how that ended."""

    def __init__(self, server: Server, token: Token) -> None:
        self._server = server
        self._token = token
        self._stop = threading.Event()
        self._calls: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.wait_for_calls(100)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def wait_for_calls(self, count: int) -> None:
        """Returns when so many more calls have ended."""
        enough = len(self._calls) + count
        wait_for(lambda: len(self._calls) >= enough)

    def statuses_since(self, moment: float) -> Counter[int]:
        """How the calls ended that began later."""
        return Counter(status for began, status in self._calls if began > moment)

    def statuses_before(self, moment: float) -> Counter[int]:
        return Counter(status for began, status in self._calls if began <= moment)

    def _run(self) -> None:
        with HandClient(self._server.url) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                status = client.call("GET", "/v1/models", self._token.bearer).status
                self._calls.append((began, status))


def revoke(server: Server, token: Token) -> int:
    return server.manage("DELETE", "/tokens", {"token": token.secret})[0]


def switch_off(server: Server, token: Token) -> int:
    return server.manage("PATCH", f"/projects/{token.project_id}", {"is_active": False})[0]


def revoke_all(server: Server, token: Token) -> int:
    return server.manage("POST", f"/projects/{token.project_id}/revoke")[0]


def expire(server: Server, token: Token) -> int:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    return server.manage("PATCH", f"/tokens/{token.id}", {"expires_at": past})[0]


def lower_the_limit(server: Server, token: Token) -> int:
    return server.manage("PATCH", f"/tokens/{token.id}", {"rate_limit": 1})[0]


def delete_the_project(server: Server, token: Token) -> int:
    return server.manage("DELETE", f"/projects/{token.project_id}?force=true")[0]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (revoke, 401),
        (switch_off, 403),
        (revoke_all, 401),
        (expire, 401),
        (lower_the_limit, 429),
        (delete_the_project, 401),
    ],
)
@with_and_without_meters
def test_no_call_that_begins_after_a_change_was_confirmed_passes(
    deployed, change: Callable[[Server, Token], int], status: int, has_meters: bool
):
    token = deployed.issue_token(rate_limit=100_000)
    if has_meters:
        give_meters(deployed, token)
    with Load(deployed, token) as load:
        before = time.monotonic()
        assert change(deployed, token) in (200, 204)
        after = time.monotonic()
        load.wait_for_calls(200)

    assert load.statuses_before(before)[200] > 50
    assert set(load.statuses_since(after)) == {status}


def lower_the_amount(server: Server, token: Token) -> int:
    meters = server.manage("GET", f"/tokens/{token.id}")[1]["meters"]
    [requests] = [meter for meter in meters if meter["unit"] == "requests"]
    return server.manage("PATCH", f"/meters/{requests['id']}", {"amount": 1})[0]


def allow_chats_alone(server: Server, token: Token) -> int:
    return server.manage("PATCH", f"/tokens/{token.id}", {"rules": {"endpoints": ["chat"]}})[0]


def allow_chats_alone_in_the_project(server: Server, token: Token) -> int:
    return server.manage("PATCH", f"/projects/{token.project_id}", {"rules": {"endpoints": ["chat"]}})[0]


@pytest.mark.parametrize(
    ("change", "status"),
    [(lower_the_amount, 429), (allow_chats_alone, 403), (allow_chats_alone_in_the_project, 403)],
)
def test_no_call_that_begins_after_a_change_of_limits_was_confirmed_is_judged_by_the_old_ones(
    deployed, change: Callable[[Server, Token], int], status: int
):
    token = deployed.issue_token(rate_limit=100_000)
    give_meters(deployed, token)
    with Load(deployed, token) as load:
        assert change(deployed, token) == 200
        after = time.monotonic()
        load.wait_for_calls(200)

    assert set(load.statuses_since(after)) == {status}


def test_a_call_after_its_tokens_last_limit_has_gone_passes_as_any_other(deployed):
    token = deployed.issue_token()
    give_meters(deployed, token)
    statuses = [call(deployed.url, "GET", "/v1/models", token.bearer).status for _ in range(2 * WORKERS)]

    assert deployed.manage("PATCH", f"/tokens/{token.id}", {"meters": []})[0] == 200

    statuses += [call(deployed.url, "GET", "/v1/models", token.bearer).status for _ in range(2 * WORKERS)]
    assert statuses == [200] * 4 * WORKERS
    assert deployed.manage("GET", f"/tokens/{token.id}")[1]["request_count"] == 4 * WORKERS


def test_what_was_switched_off_can_be_switched_on(deployed):
    token = deployed.issue_token()
    switch_off(deployed, token)
    assert call(deployed.url, "GET", "/v1/models", token.bearer).status == 403

    assert deployed.manage("PATCH", f"/projects/{token.project_id}", {"is_active": True})[0] == 200
    assert call(deployed.url, "GET", "/v1/models", token.bearer).status == 200


def test_a_raised_limit_lets_the_next_call_pass(deployed):
    token = deployed.issue_token(rate_limit=1)
    statuses = [call(deployed.url, "GET", "/v1/models", token.bearer).status for _ in range(2)]
    deployed.manage("PATCH", f"/tokens/{token.id}", {"rate_limit": 2})

    assert [*statuses, call(deployed.url, "GET", "/v1/models", token.bearer).status] == [200, 429, 200]


def test_a_replaced_key_is_sent_by_every_worker_from_the_next_call_on(deployed, upstream):
    token = deployed.issue_token()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda _: call(deployed.url, "GET", "/v1/models", token.bearer), range(40)))
        upstream.reset()
        deployed.secrets.add("sk-the-replacement")
        change = {"openai_api_key": "sk-the-replacement"}
        assert deployed.manage("PATCH", f"/projects/{token.project_id}", change)[0] == 200
        list(pool.map(lambda _: call(deployed.url, "GET", "/v1/models", token.bearer), range(40)))

    keys = Counter(dict(request["headers"])["Authorization"] for request in upstream.requests("/v1/models"))
    assert keys == {"Bearer sk-the-replacement": 40}


def test_a_changed_base_url_is_where_the_next_call_goes(deployed, upstream):
    token = deployed.issue_token(deployed.create_project(base_url=upstream.url))
    call(deployed.url, "GET", "/v1/models", token.bearer)
    change = {"base_url": upstream.url + "/moved"}
    assert deployed.manage("PATCH", f"/projects/{token.project_id}", change)[0] == 200
    call(deployed.url, "GET", "/v1/models", token.bearer)

    assert [request["target"] for request in upstream.requests()] == ["/v1/models", "/moved/models"]


def test_a_refused_call_does_not_count(deployed):
    token = deployed.issue_token(rate_limit=2)
    for _ in range(5):
        call(deployed.url, "GET", "/v1/models", token.bearer)

    assert deployed.manage("GET", f"/tokens/{token.id}")[1]["request_count"] == 2


def test_a_worker_that_was_killed_is_replaced_and_no_count_or_record_is_lost(deployed):
    token = deployed.issue_token(rate_limit=30)
    for _ in range(20):
        call(deployed.url, "GET", "/v1/models", token.bearer)
    deployed.wait_for_records(20, token)
    killed = deployed.kill_a_worker()

    statuses = Counter(call(deployed.url, "GET", "/v1/models", token.bearer).status for _ in range(20))
    assert statuses == {200: 10, 429: 10}
    assert calls_in(deployed.wait_for_records(40, token)) == 40
    assert killed not in deployed.worker_pids()
