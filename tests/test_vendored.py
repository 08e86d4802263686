"""What others wrote is here unchanged, in the version that is named."""

import hashlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [ROOT / "static" / "vendor", ROOT / "tests" / "vendor"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_vendored_file_is_the_one_in_the_manifest(folder: Path):
    rows = json.loads((folder / "MANIFEST.json").read_text())["files"]

    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    del there["MANIFEST.json"]
    assert {row["file"]: row["sha256"] for row in rows} == there


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_vendored_package_comes_with_its_version_and_licence(folder: Path):
    rows = json.loads((folder / "MANIFEST.json").read_text())["files"]

    assert all(row["version"] and row["licence"] and row["path"] for row in rows)
    for package in {row["package"] for row in rows}:
        assert any(row["package"] == package and row["file"].endswith(".LICENSE") for row in rows)


def test_the_version_is_the_same_everywhere():
    from llmproxy import __version__

    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
