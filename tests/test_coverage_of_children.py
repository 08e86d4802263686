"""`make coverage` sees what ran in processes that the tests have started with an environment of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STARTS_A_PROCESS_THAT_FORKS = """
import subprocess, sys

def test_it():
    subprocess.run([sys.executable, "server.py"], env={"A": "b"}, cwd=sys.path[0], check=True)
"""
SERVER = """
import os

def work():
    os._exit(0)

os.fork() or work()
os.wait()
"""


def test_a_server_and_the_worker_that_it_forked_are_measured(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(STARTS_A_PROCESS_THAT_FORKS)
    (tmp_path / "server.py").write_text(SERVER)
    measured = {
        "COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"),
        "COVERAGE_SOURCE": str(tmp_path),
        "COVERAGE_FILE": str(tmp_path / "data"),
    }

    def run(*command: str, **environment: str) -> str:
        env = {"PATH": os.defpath, "PYTHONPATH": f"{tmp_path}:{ROOT}"} | environment
        done = subprocess.run(
            [sys.executable, "-m", *command], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("pytest", "-p", "tests.coverage_of_children", "-p", "no:cacheprovider", "test_it.py", **measured)
    run("coverage", "combine", COVERAGE_FILE=measured["COVERAGE_FILE"])

    lines = run("coverage", "report", "--include=server.py", COVERAGE_FILE=measured["COVERAGE_FILE"]).splitlines()
    assert lines[-1].split()[0] == "TOTAL" and lines[-1].split()[-1] == "100%"
