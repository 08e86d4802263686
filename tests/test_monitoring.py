"""What deploy/ tells Prometheus and Grafana: it asks for nothing that the running proxy does not expose."""

import json
import math
import re
import shutil
import signal
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
import yaml

from tests.exposition import samples
from tests.http_by_hand import call
from tests.prometheus import Prometheus, needs_prometheus
from tests.servers import DEPLOYED, Server, Token, wait_for

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
ALERTS = DEPLOY / "prometheus/alerts.yml"
NAME = re.compile(r"\bllmproxy_\w+")
# A label matcher: its name, within the braces behind a metric's name.
MATCHED = re.compile(r"(llmproxy_\w+)\{([^}]*)\}")
OF_THE_TARGET = {"instance", "job"}
COMPARES = re.compile(r"(?:[<>]=?|==)(?= )")
LEGEND = re.compile(r"{{(\w+)}}")
JSON = ("Content-Type", "application/json")
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
ONLY_GPT_5 = {"mode": "report", "models": ["gpt-5"]}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


def alerts() -> list[dict]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict]:
    return json.loads((DEPLOY / "grafana/llm-proxy.json").read_text())["panels"]


def asked_by_panels() -> list[tuple[str, str]]:
    """Expressions, and how the dashboard calls their series."""
    return [(target["expr"], target["legendFormat"]) for panel in panels() for target in panel.get("targets", [])]


def expressions() -> list[str]:
    return [expression for expression, _ in asked_by_panels()] + [alert["expr"] for alert in alerts()]


@pytest.fixture(scope="module")
def server(running_upstream, tmp_path_factory):
    settings = {"UPSTREAM_URL": running_upstream.url, "ALERT_URL": "http://127.0.0.1:9"}
    settings["ALERT_SECRET"] = "whsec_" + b64encode(bytes(32)).decode()
    with Server(DEPLOYED, tmp_path_factory.mktemp("monitored") / "data", **settings) as server:
        yield server


@pytest.fixture(scope="module")
def exposed(server) -> dict[str, set[str]]:
    """The labels of each number that a running proxy exposes."""
    server.create_project()
    server.manage("GET", "/projects")
    # One process of the node looks at the files of the call log now and then.
    text = wait_for(lambda: told if "\nllmproxy_log_disk_bytes " in (told := server.metrics()) else None)
    found: dict[str, set[str]] = {}
    for sample in samples(text):
        found.setdefault(sample.name, set()).update(sample.labels)
    # What has labels is there from its first count on; its name and labels stand in the list of metrics.
    rows = re.findall(
        r"^\| `(llmproxy_\w+)` \| (\w+) \| ([\w, ]*) \|", (DEPLOY.parent / "docs/metrics.md").read_text(), re.M
    )
    for name, kind, labels in rows:
        names = [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]
        for one in names:
            found.setdefault(one, set()).update(filter(None, labels.split(", ")), {"le"} if "_bucket" in one else ())
    return found


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_there_is(expression, exposed):
    asked = set(NAME.findall(expression))

    assert asked or expression.startswith("up{")
    assert asked <= set(exposed)
    for name, matchers in MATCHED.findall(expression):
        assert set(re.findall(r"(\w+)\s*[=!]~?", matchers)) <= exposed[name] | OF_THE_TARGET


def test_every_metric_is_on_the_dashboard(exposed):
    shown = {name for expression, _ in asked_by_panels() for name in NAME.findall(expression)}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed if name.startswith("llmproxy_")}

    assert ours == {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def test_every_alert_is_seen_to_fire():
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
    fired = {rule["alertname"] for group in groups for rule in group["alert_rule_test"] if rule["exp_alerts"]}

    assert fired == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_leads_to_the_paragraph_that_explains_it(alert):
    anchors = [
        line[4:].lower()
        for line in (DEPLOY.parent / "docs/operations.md").read_text().splitlines()
        if line.startswith("### ")
    ]
    place, _, anchor = alert["annotations"]["runbook_url"].partition("#")

    assert place.startswith("https://") and place.endswith("/operations.md")
    assert anchors.count(anchor) == 1 and anchor == alert["alert"].lower()


@needs_promtool
@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_prometheus_own_tool_accepts_the_alerts(arguments):
    done = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


class Traffic:
    """Calls of every kind that the dashboard tells of: each of its series grows with each `flow`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        dollars = {"name": "dollars", "unit": "usd", "period": "day", "amount": "100"}
        self._spending = server.issue_token(server.create_project(meters=[dollars]))
        self._reporting = server.issue_token(rules=ONLY_GPT_5)
        self._limited = server.issue_token(rate_limit=1)
        self.calls = self.held = 0

    def flow(self) -> None:
        self._call(self._spending, CHAT, model="gpt-4o-mini", max_tokens=10)
        self._call(self._spending, CHAT, model="gpt-4o-mini", max_tokens=10, stream=True)
        self._call(self._reporting, CHAT, model="a model without a price")
        self._call(self._reporting, RESPONSES, ("x-mock-ending", "failed"), model="gpt-5", stream=True)
        for _ in range(2):
            self._call(self._limited, CHAT, model="gpt-4o-mini")
        self._server.leave_records(1)
        self.calls += 1
        self.held += 2

    def _call(self, token: Token, endpoint: str, *headers: tuple[str, str], **members: object) -> None:
        body = json.dumps({"messages": [], "input": ""} | members).encode()
        call(self._server.url, "POST", endpoint, token.bearer, JSON, *headers, body=body)
        self.calls += 1


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    """A Prometheus that has seen such traffic come and grow."""
    traffic = Traffic(server)
    with Prometheus(tmp_path_factory.mktemp("prometheus"), server.url, ALERTS) as prometheus:
        traffic.flow()
        server.wait_for_records(traffic.calls)
        server.rows("UPDATE tokens SET created_at = '2020-01-01 00:00:00'")
        # What metrics tell of the database is looked up once in ten seconds, and by a new worker at once.
        (worker,) = server.worker_pids()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(pids := server.worker_pids()) == 1 and worker not in pids)
        prometheus.wait_until(
            f"sum(llmproxy_requests_total) >= {traffic.calls} and sum(llmproxy_tokens_expiring) > 0"
        )
        traffic.flow()
        prometheus.wait_until(f"sum(llmproxy_requests_total) >= {traffic.calls}")
        prometheus.wait_until(f"llmproxy_settle_seconds_count >= {traffic.held}")  # after the call's end
        yield prometheus


@needs_prometheus
@pytest.mark.parametrize(("expression", "legend"), asked_by_panels())
def test_a_panel_shows_numbers_of_what_it_names(expression, legend, prometheus):
    found = prometheus.ask(expression.replace("$instance", ".*").replace("$__rate_interval", "1h"))

    assert found
    assert all(math.isfinite(float(series["value"][1])) for series in found)
    # Calls of nobody known have no project, whose name would be found.
    assert all(
        set(LEGEND.findall(legend)) <= set(series["metric"])
        for series in found
        if series["metric"].get("project") != "none"
    )


@needs_prometheus
@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_compares_numbers_that_there_are(alert, prometheus):
    # With `bool` a comparison tells 0 or 1 of every series, and not alone of those for which it holds.
    found = prometheus.ask(COMPARES.sub(r"\g<0> bool", alert["expr"]))

    assert found
    labels = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"]))
    assert all(labels <= set(series["metric"]) for series in found)


@needs_prometheus
def test_prometheus_can_evaluate_every_alert(prometheus):
    assert {(rule["name"], rule["health"]) for rule in prometheus.rules()} == {
        (alert["alert"], "ok") for alert in alerts()
    }
