"""/metrics of the running proxy: what calls were, what is open, exact over workers that come and go."""

import os
import re
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmproxy import __version__
from tests.exposition import samples, total
from tests.http_by_hand import HandClient, call
from tests.meters import add_meter, settled
from tests.servers import DEPLOYED, Server, wait_for
from tests.upstream import ScriptedUpstream, answering_json

ROOT = Path(__file__).resolve().parents[2]
CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}'
STREAM = CHAT[:-1] + b', "stream": true}'
JSON = ("Content-Type", "application/json")
TIMES = ("request_duration_seconds", "first_byte_seconds", "overhead_seconds", "claim_seconds")


def _of_no_call_that_runs(server: Server) -> str | None:
    """The metrics, where no call of a test before is still to be counted."""
    told = server.metrics()
    return told if total(told, "llmproxy_requests_in_flight") == 0 else None


class Growth:
    """By how much numbers have grown since this was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = wait_for(lambda: _of_no_call_that_runs(server))

    def __call__(self, name: str, **labels: str) -> float:
        return total(self._server.metrics(), f"llmproxy_{name}", **labels) - total(
            self._before, f"llmproxy_{name}", **labels
        )


def test_a_call_is_counted_and_timed_and_its_tokens_are_added_up(upstream, tmp_path):
    # A server of its own: the metrics name the first hundred projects and models of a process.
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token, growth = server.issue_token(), Growth(server)
        answer = call(server.url, "POST", "/v1/chat/completions", token.bearer, JSON, body=CHAT)
        server.wait_for_records(1, token)

        labels = {"project": token.project_id, "endpoint": "chat", "status": "200", "outcome": "complete"}
        assert growth("requests_total", **labels) == 1
        assert [growth(f"{name}_count") for name in TIMES] == [1] * 4
        assert 0 < growth("overhead_seconds_sum") < growth("request_duration_seconds_sum", endpoint="chat")
        usage, model = answer.json["usage"], answer.json["model"]
        assert growth("usage_tokens_total", model=model, kind="prompt") == usage["prompt_tokens"]
        assert growth("usage_tokens_total", model=model, kind="completion") == usage["completion_tokens"]


def test_what_the_upstream_takes_is_no_overhead(proxy, upstream, token):
    growth = Growth(proxy)
    call(proxy.url, "GET", "/v1/models", token.bearer, ("x-mock-delay-ms", "1500"))
    proxy.wait_for_records(1, token)

    # The pause is by the upstream's own clock, which may be a little behind.
    assert growth("first_byte_seconds_sum") > 1.4
    assert growth("overhead_seconds_bucket", le="1.0") == 1


def test_a_refusal_is_counted_by_its_code(proxy):
    growth = Growth(proxy)
    unknown = ("Authorization", f"Bearer {uuid.uuid4()}")
    assert call(proxy.url, "GET", "/v1/models", unknown).status == 401

    wait_for(lambda: growth("refusals_total", code="invalid_api_key") == 1)
    assert growth("requests_total", project="none", outcome="refused", status="401") == 1
    assert growth("request_duration_seconds_count") == 0


def test_open_streams_and_connections_are_those_of_the_moment(proxy, upstream, token):
    gate = str(uuid.uuid4())

    def now(name: str, **labels: str) -> float:
        return total(proxy.metrics(), f"llmproxy_{name}", **labels)

    with HandClient(proxy.url) as client:
        headers = (token.bearer, JSON, ("x-mock-gate", gate))
        client.send_request("POST", "/v1/chat/completions", *headers, body=STREAM)
        answer = client.read_head()
        client.read_chunk(answer)
        wait_for(lambda: (now("requests_in_flight"), now("open_streams", kind="sse")) == (1, 1))
        assert now("upstream_connections", state="busy") == 1
        upstream.release(gate, count=100)
        client.read_rest(answer)
    proxy.wait_for_records(1, token)

    wait_for(lambda: (now("requests_in_flight"), now("open_streams")) == (0, 0))
    assert now("upstream_connections", state="busy") == 0
    assert now("upstream_connections", state="idle") >= 1
    for pool in ("claims", "others"):
        assert now("database_connection_limit", pool=pool) >= now("database_connections", pool=pool) >= 1
    assert now("workers") == now("workers_wanted") == 1


def test_the_build_is_told(proxy):
    assert total(proxy.metrics(), "llmproxy_build_info", version=__version__) == 1


def metrics_dir_of(server: Server) -> Path:
    """Where its workers share their numbers."""
    (worker, *_) = server.worker_pids()
    files = re.findall(r"\S+/llm-proxy-metrics-\w+/counter_\d+\.db", Path(f"/proc/{worker}/maps").read_text())
    return Path(files[0]).parent


def test_a_start_removes_the_files_of_a_server_that_was_killed_and_of_no_other(tmp_path):
    killed = Server(DEPLOYED, tmp_path / "killed")
    with killed, Server(DEPLOYED, tmp_path / "running") as running:
        left, used = metrics_dir_of(killed), metrics_dir_of(running)
        for pid in (killed.process.pid, *killed.worker_pids()):
            os.kill(pid, signal.SIGKILL)
        killed.process.wait()
        assert left.exists()

        with Server(DEPLOYED, tmp_path / "next") as other:
            assert not left.exists()
            assert used.exists() and metrics_dir_of(other) not in (left, used)
        assert total(running.metrics(), "llmproxy_workers") == 1


def test_a_worker_that_is_killed_takes_no_count_along(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, WEB_CONCURRENCY="2") as server:
        token = server.issue_token()
        for count in (25, 50, 75):
            for _ in range(25):
                assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
            server.wait_for_records(count, token)
            server.kill_a_worker()

        wait_for(lambda: total(server.metrics(), "llmproxy_workers") == 2)
        assert total(server.metrics(), "llmproxy_workers_wanted") == 2
        told = server.metrics()
        assert total(told, "llmproxy_requests_total", project=token.project_id) == 75
        assert total(told, "llmproxy_first_byte_seconds_count", endpoint="models") == 75
        assert total(told, "llmproxy_claim_seconds_count") == 75


# --- what is written about it ---


def test_the_list_of_metrics_is_that_of_the_running_proxy(proxy, token, token_for):
    for body in (CHAT, CHAT.replace(b"gpt-4o-mini", b"without-a-price")):
        call(proxy.url, "POST", "/v1/chat/completions", token.bearer, JSON, body=body)
    with ScriptedUpstream(answering_json(b'{"error": {"message": "m"}}')) as upstream:
        failing = token_for(upstream.url)
        call(proxy.url, "POST", "/v1/chat/completions", failing.bearer, JSON, body=CHAT)
    tried = proxy.issue_token(rules={"mode": "report", "models": ["another"]})
    call(proxy.url, "POST", "/v1/chat/completions", tried.bearer, JSON, body=CHAT)
    unserved = token_for("http://127.0.0.1:9")
    call(proxy.url, "GET", "/v1/models", unserved.bearer)
    for caller, calls in ((token, 2), (failing, 1), (tried, 1), (unserved, 1)):
        proxy.wait_for_records(calls, caller)
    # Until a reader has saved its position there is none to tell of.
    wait_for(lambda: "llmproxy_log_lag_seconds{" in proxy.metrics())

    exposed = {
        (family.name + "_total" * (family.type == "counter"), family.type)
        for family in text_string_to_metric_families(proxy.metrics())
        if family.name.startswith("llmproxy_")
    }
    listed = set(
        re.findall(r"^\| `(llmproxy_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    )
    # Told where there are alerts to deliver, which tests/e2e/test_alerts.py sees.
    assert listed == exposed | {("llmproxy_alerts_total", "counter")}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_prometheus_own_tool_has_nothing_to_say_against_them(proxy):
    ours = "".join(line for line in proxy.metrics().splitlines(keepends=True) if "llmproxy_" in line)
    done = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def named(server: Server) -> list[dict[str, str]]:
    return [one.labels for one in samples(server.metrics()) if one.name == "llmproxy_project_info"]


def test_all_that_is_looked_up_now_and_then_is_told_from_the_first_scrape_on(tmp_path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        project = server.create_project(name="shop")

    with Server(DEPLOYED, tmp_path / "data") as started_anew:
        first_scrape = started_anew.metrics()

    told = {(one.name, one.labels.get("project")) for one in samples(first_scrape)}
    of_project = {(name, project) for name in ("llmproxy_project_info", "llmproxy_tokens_expiring")}
    assert of_project | {("llmproxy_log_disk_bytes", None)} <= told


def test_projects_are_told_by_the_name_that_they_have_now(tmp_path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        project = server.create_project(name="before")
        wait_for(lambda: named(server) == [{"project": project, "name": "before"}])
        server.manage("PATCH", f"/projects/{project}", {"name": "after"})

        wait_for(lambda: named(server) == [{"project": project, "name": "after"}])


def test_a_projects_budget_is_told_by_the_part_that_is_spent(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
        meter = add_meter(server, token.project_id, amount=100, period="total", period_end=2**62)
        assert call(server.url, "POST", "/v1/chat/completions", token.bearer, JSON, body=CHAT).status == 200
        spent = settled(server, meter).spent

        def used() -> float:
            return total(server.metrics(), "llmproxy_meter_used_ratio", project=token.project_id, meter=meter)

        assert spent > 0
        wait_for(lambda: used() == spent / 100, otherwise=used)
        assert total(server.metrics(), "llmproxy_settle_seconds_count") == 1
