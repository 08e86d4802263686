"""The scripts behind `make image-test` and `make compose-test`, as far as they go without an engine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.compose import ROOT

TRIALS = {"image": "deploy/try_image.py", "compose": "deploy/try_compose.py"}


@pytest.mark.parametrize("name", TRIALS)
def test_make_knows_each_trial(name: str) -> None:
    assert f"\n{name}-test:" in (ROOT / "Makefile").read_text()
    assert TRIALS[name] in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("script", TRIALS.values())
def test_a_trial_names_what_it_lacks_and_leaves_the_rest(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("not tried, for want of: debootstrap, docker, ")
