"""The commands of docs/llm-benchmark.md, typed as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mock_openai.mock import MockOpenAI
from tests.servers import ROOT

EXECUTED = re.compile(r"<!-- executed by tests/benchmark/test_docs\.py -->\n```bash\n(.*?)```", re.DOTALL)


def test_the_examples_work_as_they_stand(tmp_path: Path) -> None:
    [commands] = EXECUTED.findall((ROOT / "docs" / "llm-benchmark.md").read_text())
    with MockOpenAI() as mock:
        script = commands.replace("http://localhost:8088", mock.url).replace(
            "./llm-benchmark", str(ROOT / "llm-benchmark")
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "results.json").read_text())["requests"] == 100
    assert "<!doctype html>" in (tmp_path / "report.html").read_text()
    assert "over throughput" in (tmp_path / "sweep.html").read_text()
    assert len((tmp_path / "requests.csv").read_text().splitlines()) == 1 + 3 * 32


def test_the_page_names_every_flag_and_none_that_is_not_there(run_help: str) -> None:
    page = (ROOT / "docs" / "llm-benchmark.md").read_text()
    known = set(re.findall(r"--[a-z][a-z0-9-]+", run_help))
    ours = page.partition("## Locust's own face")[0]
    others = {"--host", "--port", "--self-test", "--latency-correction"}

    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", ours)) - others <= known
    assert known - {"--help"} <= set(re.findall(r"--[a-z][a-z0-9-]+", ours))


@pytest.fixture
def run_help() -> str:
    return subprocess.run([sys.executable, str(ROOT / "llm-benchmark"), "--help"], capture_output=True, text=True,
                          timeout=200, check=True).stdout  # fmt: skip
