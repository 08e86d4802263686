"""One project's budget, spent by twenty tokens over two nodes while its operator works."""

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.databases import execute
from tests.http_by_hand import HandClient, call
from tests.meters import DOLLAR, UsingUpstream, add_meter, asking, settled
from tests.postgres import running_postgres
from tests.servers import DEPLOYED, Server, wait_for

CHAT = "/v1/chat/completions"
TOKENS, CALLS, EDITS = 20, 15, 20

pytestmark = pytest.mark.postgres


def told(answer):
    return answer.status if answer.status == 200 else (answer.status, answer.json["error"]["code"])


def test_two_nodes_spend_one_budget_without_a_deadlock_or_a_false_refusal(tmp_path):
    body = asking("gpt-4.1", used=(1000, 100), max_tokens=100)
    with UsingUpstream() as using, running_postgres() as postgres:
        url = postgres.new_database()
        settings = {"UPSTREAM_URL": using.url, "DATABASE_URL": url, "WEB_CONCURRENCY": "2"}
        with Server(DEPLOYED, tmp_path / "a", **settings) as one, Server(DEPLOYED, tmp_path / "b", **settings) as two:
            project = one.create_project()
            kept = [one.issue_token(project, rate_limit=10**6) for _ in range(TOKENS)]
            going = [one.issue_token(project, rate_limit=10**6) for _ in range(EDITS)]
            meter = add_meter(one, project, amount=1000 * DOLLAR)
            for token in (*kept[::2], *going):
                add_meter(one, token, amount=1000 * DOLLAR)

            def spend(token, server):
                with HandClient(server.url) as client:
                    return Counter(told(client.call("POST", CHAT, token.bearer, body=body)) for _ in range(CALLS))

            def spend_until_it_is_gone(token, server):
                answers = (told(call(server.url, "POST", CHAT, token.bearer, body=body)) for _ in itertools.count())
                return next(answer for answer in answers if answer != 200)

            def edit():
                for number, token in enumerate(going):
                    amount = f"{1000 + number}.00"
                    assert one.manage("PATCH", f"/meters/{meter}", {"amount": amount})[0] == 200
                    if number % 2:
                        assert two.manage("DELETE", f"/tokens/{token.id}")[0] == 204
                    else:
                        execute(url, f"DELETE FROM tokens WHERE id = '{token.id}'")

            nodes = itertools.cycle((one, two))
            with ThreadPoolExecutor(2 * TOKENS + EDITS + 1) as pool:
                spending = [pool.submit(spend, token, node) for token in kept for node in (one, two)]
                ending = [pool.submit(spend_until_it_is_gone, token, next(nodes)) for token in going]
                pool.submit(edit).result()
                answers = sum((done.result() for done in spending), Counter())
                ends = {done.result() for done in ending}

            assert answers == {200: 2 * TOKENS * CALLS}
            assert ends <= {(401, "token_revoked"), (401, "invalid_api_key")}
            wait_for(lambda: not execute(url, "SELECT 1 FROM reservations"))
            costs = [record["cost_usd"] or 0 for server in (one, two) for record in server.records()]
            assert settled(one, meter).spent == sum(round(cost * DOLLAR) for cost in costs)
            assert execute(url, "SELECT sum(in_flight) AS n FROM tokens") == [{"n": 0}]
            assert "deadlock" not in postgres.log()
            assert "Traceback" not in one.output() + two.output()
