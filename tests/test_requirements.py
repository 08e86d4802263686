"""The pinned requirements install as they are, whatever was published since and however old pip is."""

import re
from importlib.metadata import PackageNotFoundError, requires
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
