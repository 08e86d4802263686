"""What compose.yaml says, and the secrets that it wants."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def compose() -> dict[str, Any]:
    """The file, with its anchors resolved."""
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def make_secrets(directory: Path) -> str:
    """Run the script that makes them; what it printed."""
    command = [sys.executable, str(ROOT / "deploy/make_secrets.py"), str(directory)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
