"""The operator's commands beside running servers: keys are rotated under load, what is old is deleted."""

import base64
import json
import re
import subprocess
import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.http_by_hand import HandClient, call
from tests.servers import DEPLOYED, ROOT, Server, wait_for

CLIENTS = 16


def call_in_parallel(servers: list[Server], token, times: int) -> Counter[int]:
    def use(number: int) -> list[int]:
        with HandClient(servers[number % len(servers)].url) as client:
            return [client.call("GET", "/v1/models", token.bearer).status for _ in range(times // CLIENTS)]

    with ThreadPoolExecutor(CLIENTS) as pool:
        return Counter(status for statuses in pool.map(use, range(CLIENTS)) for status in statuses)


def flask(server: Server, *arguments: str, **settings: str) -> str:
    """What a command prints, run where the server runs."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT, env=server.settings | settings, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_keys_are_rotated_while_calls_run(upstream, tmp_path):
    old, new = (base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))
    settings = {"UPSTREAM_URL": upstream.url, "WEB_CONCURRENCY": "2"}
    with Server(DEPLOYED, tmp_path / "data", **settings, ENCRYPTION_KEY=old) as server:
        tokens = [server.issue_token(rate_limit=10_000) for _ in range(4)]

    with Server(DEPLOYED, tmp_path / "data", **settings, ENCRYPTION_KEY=f"{new},{old}") as server:
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(call_in_parallel, [server], token, 160) for token in tokens]
            assert "sealed 4 keys anew; 0 were current" in flask(server, "keys", "rotate")
        assert [each.result() for each in running] == [{200: 160}] * 4
        assert "sealed 0 keys anew; 4 were current" in flask(server, "keys", "rotate")

    with Server(DEPLOYED, tmp_path / "data", **settings, ENCRYPTION_KEY=new) as server:
        assert [call(server.url, "GET", "/v1/models", token.bearer).status for token in tokens] == [200] * 4


def test_cleanup_deletes_what_the_settings_say_beside_a_running_server(tmp_path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        token = server.issue_token()
        past = {"expires_at": "2026-01-01T00:00:00Z"}
        assert server.manage("PATCH", f"/tokens/{token.id}", past)[0] == 200

        kept = flask(server, "cleanup", TOKEN_RETENTION_DAYS="36500")
        told = flask(server, "cleanup", TOKEN_RETENTION_DAYS="0", AUDIT_RETENTION_DAYS="0")

        assert "deleted 0 expired tokens" in kept and "deleted 0 audit entries" in kept
        assert "deleted 1 expired tokens" in told and "deleted 3 audit entries" in told
        assert server.manage("GET", "/tokens")[1]["data"] == []


def test_cleanup_deletes_sums_of_whole_days_alone(tmp_path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        assert call(server.url, "GET", "/v1/models").status == 401
        (today,) = server.wait_for_records(1)
        earlier = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%dT%H:%M:%S.000Z}"
        with (server.data_dir / "api_logs.jsonl").open("a") as log:
            log.write(json.dumps(today | {"request_id": str(uuid.uuid4()), "timestamp": earlier}) + "\n")

        def requests() -> int:
            begin = f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%dT%H:00:00Z}"
            return server.manage("GET", f"/usage?from={begin}")[1]["total"]["requests"]

        wait_for(lambda: requests() == 2, otherwise=server.output)
        assert "deleted 0 sums of usage" in flask(server, "cleanup")
        assert "deleted 0 sums of usage" not in flask(server, "cleanup", USAGE_RETENTION_DAYS="0")
        assert requests() == 1


def test_a_price_is_shown_as_it_holds(tmp_path):
    own = tmp_path / "prices.toml"
    own.write_text('model."gpt-5.4".out = 9.99\nproject.edge.model."house \\"model\\"".in = 3\n')
    server = Server(DEPLOYED, tmp_path / "data", PRICES_FILE=str(own))

    assert "  from the sheet and PRICES_FILE: " in (shown := flask(server, "prices", "show", "gpt-5.4"))
    assert re.search(r"default +2\.50 +0\.25 +9\.99", shown)
    assert 'PRICES_FILE, project "edge"' in flask(server, "prices", "show", 'house "model"', "--project", "edge")
    with pytest.raises(AssertionError, match=r'has no price.*PRICES_FILE \[model\."house \\"model\\""\]'):
        flask(server, "prices", "show", 'house "model"')
    with pytest.raises(AssertionError, match="no prices are kept"):
        flask(server, "prices", "show", "gpt-5.4", PRICES_FILE="none")
