"""The pinned requirements install as they are, whatever was published since and however old pip is."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))


def pinned_in(name: str) -> dict[str, set[str]]:
    """The packages of a file, each with the extras that its pin names."""
    lines = re.findall(r"^([a-z][\w.-]*(?:\[.*?\])?)==", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {pin.name: pin.extras for pin in map(Requirement, lines)}


def asked_extras(package: str) -> dict[str, set[str]]:
    """What an installed package asks of others beyond their plain form."""
    try:
        needed = [Requirement(line) for line in requires(package) or []]
    except PackageNotFoundError:  # of another platform
        return {}
    applies = [need for need in needed if not need.marker or need.marker.evaluate({"extra": ""})]
    return {need.name: need.extras for need in applies if need.extras}


@pytest.mark.parametrize("name", FILES)
def test_a_pin_names_the_extras_that_other_packages_ask_for(name):
    # pip before 23.3 takes `coverage[toml]` for another package than `coverage`, finds a newer one, and refuses it.
    pinned = pinned_in(name)
    unpinned = {
        f"{package} asks for {needed}{sorted(extras)}"
        for package in pinned
        for needed, extras in asked_extras(package).items()
        if not extras <= pinned[needed]
    }

    assert unpinned == set()


@pytest.fixture
def serving_alone(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A Python that has what requirements-serve.txt installs, and nothing else."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in pinned_in("requirements-serve.txt"):
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        for top in {path.parts[0] for path in found.files or () if path.parts[0] != ".."} - {"__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
    settings = {"DATA_DIR": str(tmp_path / "data"), "MANAGEMENT_TOKEN": "0123456789abcdef", "ADMIN_USER": "admin",
                "ADMIN_PASSWORD": "0123456789abcdef", "MAKE_ENCRYPTION_KEY": "true"}  # fmt: skip

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", *arguments], cwd=ROOT, env={"PYTHONPATH": str(packages)} | settings, text=True,
            capture_output=True, timeout=200, check=False,
        )  # fmt: skip

    return python


def test_a_server_alone_starts_from_its_own_requirements(serving_alone):
    done = serving_alone("-m", "gunicorn", "-c", "gunicorn.conf.py", "--check-config", "wsgi:app")

    assert (done.returncode, done.stderr) == (0, "")


def test_llm_benchmark_says_in_one_line_what_a_server_alone_lacks(serving_alone, tmp_path):
    # A copy, since the command takes the Python of .venv where there is one beside it.
    shutil.copy(ROOT / "llm-benchmark", tmp_path)
    (tmp_path / "benchmark").symlink_to(ROOT / "benchmark")

    for done in serving_alone("-m", "benchmark"), serving_alone(str(tmp_path / "llm-benchmark"), "--help"):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "locust and rich cannot be imported" in done.stderr and "requirements.txt" in done.stderr


def test_a_server_alone_is_installed_as_it_is_with_the_benchmark():
    alone, both = pins("requirements-serve.txt"), pins("requirements.txt")

    assert alone < both
    # The benchmark's own: all that Locust brings, and Rich.
    assert {"locust", "rich", "pytest"} <= {pin.partition("==")[0] for pin in both - alone}


def pins(name: str) -> set[str]:
    return set(re.findall(r"^([a-z][^ ]*==[^ ]*)", (ROOT / name).read_text(), flags=re.MULTILINE))
