"""Alerts of budgets, from calls through the running proxy to their receiver, which checks them as the docs say."""

import base64
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmproxy.limits.periods import NEVER_US
from tests.exposition import total
from tests.http_by_hand import call
from tests.meters import DOLLAR, UsingUpstream, add_meter, asking, set_columns
from tests.ports import free_port
from tests.post_server import PostHandler, PostServer
from tests.servers import DEPLOYED, Server, wait_for

CHAT = "/v1/chat/completions"
JSON = ("Content-Type", "application/json")
SECRET = "whsec_" + base64.b64encode(b"planted-signing-key-of-32-bytes!").decode()
DOCS = Path(__file__).resolve().parents[2] / "docs/budgets.md"


def documented_check() -> Callable[[str, Mapping[str, str], bytes], bool]:
    """What docs/budgets.md tells receivers to do."""
    [code] = re.findall(r"```python\n(def is_ours.*?)```", DOCS.read_text(), re.S)
    names = {"base64": base64, "hmac": hmac, "time": time, "Mapping": Mapping}
    exec(code, names)
    return names["is_ours"]


class Receiver:
    """
    Down until it is started.

    Attributes:
        seen: Headers, in lower case, and bodies of what came.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/alerts?key=planted-receiver-secret"

    def start(self) -> None:
        self._server = PostServer(self._take, port=self._port)

    def close(self) -> None:
        self._server.close()

    def _take(self, handler: PostHandler, body: bytes) -> None:
        self.seen.append(({name.lower(): value for name, value in handler.headers.items()}, body))
        handler.answer(204)


def outbox(server: Server) -> list[dict]:
    return server.rows("SELECT id, subject, threshold, state FROM alerts ORDER BY threshold")


def test_a_token_on_its_last_day_is_told_of_and_what_a_period_used_up_before_a_call_began_the_next(tmp_path):
    receiver = Receiver()
    receiver.start()
    settings = {"ALERT_URL": receiver.url, "ALERT_SECRET": SECRET}
    with UsingUpstream() as using, Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=using.url, **settings) as proxy:
        token = proxy.issue_token()
        ended = int(time.time()) * 10**6
        add_meter(proxy, token, spent=960_000, period_end=ended)
        assert call(proxy.url, "POST", CHAT, token.bearer, JSON, body=asking()).status == 200
        old = proxy.issue_token()
        set_columns(proxy, "tokens", f"id = '{old.id}'", created_at="2020-01-01 00:00:00.000000")

        wait_for(lambda: len(receiver.seen) > 2, otherwise=proxy.output)
        assert [row["last_end"] for row in proxy.rows("SELECT last_end FROM meters")] == [ended]

    receiver.close()
    told = [json.loads(body) for _, body in receiver.seen]
    assert {event["data"]["token"]["id"] for event in told if event["type"] == "token.expires_soon"} == {old.id}
    crossed = [event["data"] for event in told if event["type"] == "budget.threshold"]
    assert [(data["threshold"], data["meter"]["spent"]) for data in crossed] == [(80, "0.96"), (95, "0.96")]


def test_models_without_a_price_and_keys_that_are_refused_are_told_of_once_and_no_kind_that_is_not_wanted(tmp_path):
    receiver = Receiver()
    receiver.start()
    settings = {
        "ALERT_URL": receiver.url,
        "ALERT_SECRET": SECRET,
        "ALERT_KINDS": "upstream.key_refused,model.unpriced",
    }
    with UsingUpstream() as using, Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=using.url, **settings) as proxy:
        token = proxy.issue_token()
        set_columns(proxy, "tokens", f"id = '{token.id}'", created_at="2020-01-01 00:00:00.000000")
        add_meter(proxy, token.project_id, spent=DOLLAR, period="total", period_end=NEVER_US, models="none")
        for model in ("gpt-4.1", "our-own", "our-own"):
            call(proxy.url, "POST", CHAT, token.bearer, JSON, body=asking(model))
        for _ in range(2):
            call(proxy.url, "POST", CHAT, token.bearer, JSON, body=asking("gpt-4.1", status=401))

        # Models are looked for every 20 s, all else every 5.
        wait_for(lambda: len(receiver.seen) > 1, otherwise=proxy.output)

    receiver.close()
    told = {event["type"]: event["data"] for event in (json.loads(body) for _, body in receiver.seen)}
    assert (len(receiver.seen), told.keys()) == (2, {"upstream.key_refused", "model.unpriced"})
    assert told["upstream.key_refused"]["project"]["id"] == token.project_id
    assert told["model.unpriced"]["model"] == "our-own"


def test_what_sixty_four_parallel_calls_cross_is_told_once_each_although_the_receiver_was_down(tmp_path):
    receiver, is_ours = Receiver(), documented_check()
    settings = {"ALERT_URL": receiver.url, "ALERT_SECRET": SECRET, "WEB_CONCURRENCY": "2"}
    with UsingUpstream() as using, Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=using.url, **settings) as proxy:
        token = proxy.issue_token(rate_limit=10**6)
        meter = add_meter(proxy, token, amount=DOLLAR)
        body = asking("gpt-4.1", used=(0, 2500), max_tokens=2500)

        def spend(_: int = 0) -> str:
            answer = call(proxy.url, "POST", CHAT, token.bearer, JSON, body=body)
            return answer.json["error"]["code"] if answer.status == 429 else str(answer.status)

        with ThreadPoolExecutor(64) as pool:
            assert "200" in set(pool.map(spend, range(128)))
        # Near its end calls go one at a time.
        wait_for(lambda: spend() == "budget_exhausted")
        wait_for(lambda: len(outbox(proxy)) == 3, otherwise=proxy.output)
        wait_for(lambda: total(proxy.metrics(), "llmproxy_alerts_total", outcome="failed"))
        assert {row["state"] for row in outbox(proxy)} == {"waiting"}
        assert total(proxy.metrics(), "llmproxy_alerts_waiting") == 3

        receiver.start()
        wait_for(lambda: {row["state"] for row in outbox(proxy)} == {"delivered"}, otherwise=proxy.output)
        receiver.close()

        assert [(row["subject"], row["threshold"]) for row in outbox(proxy)] == [
            (meter, 80),
            (meter, 95),
            (meter, 100),
        ]
        assert all(is_ours(SECRET, headers, body) for headers, body in receiver.seen)
        assert not is_ours(SECRET, receiver.seen[0][0], receiver.seen[0][1] + b" ")
        told = {headers["webhook-id"]: json.loads(body)["data"] for headers, body in receiver.seen}
        assert {id_: data["threshold"] for id_, data in told.items()} == {
            r["id"]: r["threshold"] for r in outbox(proxy)
        }
        assert {data["token"]["id"] for data in told.values()} == {token.id}
        assert "planted" not in proxy.output() + proxy.metrics()
        wait_for(lambda: total(proxy.metrics(), "llmproxy_alerts_waiting") == 0)
