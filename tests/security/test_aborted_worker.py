"""A worker that its master aborts, because it has not been heard of: another one is there at once."""

import os
import signal

from tests.http_by_hand import HandClient, call
from tests.security.attackers import REFUSED, attacking
from tests.servers import DEPLOYED, Server, wait_for


def test_an_abort_ends_the_worker_whatever_it_is_at(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        (aborted,) = server.worker_pids()
        with attacking(server.url, b"", REFUSED * 200):
            # So that the signal meets a connection's greenlet.
            wait_for(lambda: sum(record.get("count", 1) for record in server.records()) > 100)
            os.kill(aborted, signal.SIGABRT)
            wait_for(lambda: server.worker_pids() not in ([], [aborted]))

        # The new one.
        assert {call(server.url, "GET", "/healthz").status for _ in range(50)} == {200}
        # For whoever wants to know why.
        assert "most recent call first" in server.output()


def test_a_call_that_an_abort_ends_has_its_record(upstream, tmp_path):
    body = b'{"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    headers = [("Content-Type", "application/json"), ("x-mock-hang-after", "2")]
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            client.send_request("POST", "/v1/chat/completions", token.bearer, *headers, body=body)
            client.read_chunk(client.read_head())
            os.kill(server.worker_pids()[0], signal.SIGABRT)
            [record] = server.wait_for_records(1, token)

        told = record["outcome"], record["status_code"], record["error"]["code"], record["stream"]
        assert told == ("refused", 200, "proxy_draining", True)
