"""`make sbom`: what the product is made of, for whoever looks for a weakness in it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.skipif(not (BIN / "cyclonedx-py").exists(), reason="cyclonedx-bom is not installed"),
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]


def test_the_bill_names_every_pinned_package_with_its_version_and_hashes(tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    # What the first use of any target installs is there already.
    subprocess.run(["make", "-s", "-o", ".venv/.dev", "sbom", f"BIN={BIN}", f"SBOM={bill}"], cwd=ROOT, check=True)
    made = json.loads(bill.read_text())

    pinned = re.findall(r"^([a-z][\w.-]*?)(?:\[.*?\])?==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert made["bomFormat"] == "CycloneDX" and made["metadata"]["component"]["name"] == "llm-proxy"
    assert len(pinned) > 50
    assert sorted((one["name"], one["version"]) for one in made["components"]) == sorted(pinned)
    hashed = [one for one in made["components"] if "sha256" in json.dumps(one)]
    assert hashed == made["components"]
