"""A key and a token, planted where an upstream would repeat them, are found in no sink, shipped batches included."""

import json

from mock_openai.mock import MockOpenAI
from tests.receiver import Receiver, receiver  # noqa: F401
from tests.servers import UPSTREAM_KEY, Server, fetch, on_both_servers, wait_for

CHAT = "/v1/chat/completions"


@on_both_servers
def test_no_sink_holds_a_key_or_a_token(server_kind, tmp_path, upstream: MockOpenAI, receiver: Receiver):  # noqa: F811
    settings = {"UPSTREAM_URL": upstream.url, "LOGGING_URL": receiver.url, "LOGGING_TOKEN": "planted-logging-token"}
    with Server(server_kind, tmp_path / "data", **settings) as server:
        server.secrets.add("planted-logging-token")
        token = server.issue_token()
        bearer = dict([token.bearer])
        # The prompt, the query and headers hold them; statuses are good, bad and our own.
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": token.secret + UPSTREAM_KEY}]}
        answers = [
            fetch(server.url, "POST", CHAT, bearer | {"x-mock-status": status}, body)
            for status in ("200", "400", "401", "429", "500")
        ]
        answers.append(fetch(server.url, "GET", f"/v1/models?key={token.secret}", bearer))
        answers.append(fetch(server.url, "GET", "/v1/models", {"Authorization": f"Bearer {token.secret}x"}))
        server.manage("DELETE", "/tokens", {"token": token.secret})
        answers.append(fetch(server.url, "POST", CHAT, bearer, body))
        refused = [payload.decode() for status, _, payload in answers if status in (401, 502)]

        shipped = wait_for(lambda: receiver.records if len(receiver.records) >= len(answers) else None)

        assert len(refused) == 3
        written = [json.dumps(shipped), *refused, server.output(), server.metrics()]
        assert [text for text in written if any(secret in text for secret in server.secrets)] == []
