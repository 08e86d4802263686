"""Prometheus for real, which asks one server for its metrics."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.ports import free_port
from tests.servers import fetch, wait_for

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt-get install prometheus)"
)


class Prometheus:
    """
    A Prometheus that scrapes once in a second, while the context is open.

    Args:
        directory: For its files.
        target: Whose /metrics it asks.
        rules: A file of alerts, which it evaluates.
    """

    def __init__(self, directory: Path, target: str, rules: Path) -> None:
        scraped = {"job_name": "llm-proxy", "static_configs": [{"targets": [urlsplit(target).netloc]}]}
        every_s = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        # JSON is YAML, too.
        configuration = {"global": every_s, "rule_files": [str(rules)], "scrape_configs": [scraped]}
        (directory / "prometheus.yml").write_text(json.dumps(configuration))
        self._url = f"http://127.0.0.1:{free_port()}"
        self._log = directory / "prometheus.log"
        self._command = [
            "prometheus",
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/series",
            f"--web.listen-address={urlsplit(self._url).netloc}",
        ]

    def __enter__(self) -> "Prometheus":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(self._is_ready, timeout_s=30.0, otherwise=self._log.read_text)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def _is_ready(self) -> bool:
        try:
            return fetch(self._url, "GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now: of each the `metric`, its labels, and the `value`, time and text."""
        found: list[dict[str, Any]] = self._get(f"query?{urlencode({'query': expression})}")["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Its rules, with the `health` of each."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait_until(self, expression: str) -> None:
        """Returns as soon as an expression has a series."""
        wait_for(lambda: self.ask(expression), timeout_s=30.0, otherwise=self._log.read_text)

    def _get(self, path: str) -> dict[str, Any]:
        status, _, body = fetch(self._url, "GET", f"/api/v1/{path}")
        assert status == 200, body
        data: dict[str, Any] = json.loads(body)["data"]
        return data
