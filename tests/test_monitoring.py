"""What deploy/ tells Prometheus and Grafana: it asks for nothing that the running proxy does not expose."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.exposition import samples
from tests.servers import DEPLOYED, Server, wait_for

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
NAME = re.compile(r"\bllmproxy_\w+")
# A label matcher: its name, within the braces behind a metric's name.
MATCHED = re.compile(r"(llmproxy_\w+)\{([^}]*)\}")
OF_THE_TARGET = {"instance", "job"}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")


def alerts() -> list[dict]:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict]:
    return json.loads((DEPLOY / "grafana/llm-proxy.json").read_text())["panels"]


def asked_by_panels() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def expressions() -> list[str]:
    return asked_by_panels() + [alert["expr"] for alert in alerts()]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory) -> dict[str, set[str]]:
    """The labels of each number that a running proxy exposes."""
    with Server(DEPLOYED, tmp_path_factory.mktemp("monitored") / "data") as server:
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
    shown = {
        name for panel in panels() for target in panel.get("targets", []) for name in NAME.findall(target["expr"])
    }
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
