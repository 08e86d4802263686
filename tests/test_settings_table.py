"""The README's table of settings says what config.py declares, cell by cell."""

import re
from dataclasses import MISSING
from pathlib import Path

import pytest

from config import SETTINGS

README = Path(__file__).parent.parent / "README.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
FOUND = {name: (default, meaning) for name, default, meaning in ROW.findall(README.read_text(encoding="utf-8"))}


def shown_default(name: str) -> str:
    """A default as the table has it."""
    default, words = SETTINGS[name].default, SETTINGS[name].metadata["shown"]
    if words or default in ("", None, ()):
        return words or "none"
    if isinstance(default, bool):
        return f"`{default}`".lower()
    return f"`{default:.15g}`" if isinstance(default, float) else f"`{default}`"


WANTED = {name: (shown_default(name), one.metadata["doc"]) for name, one in SETTINGS.items()}


def row(name: str) -> str:
    return "| `{}` | {} | {} |".format(name, *WANTED[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_settings_row_says_what_is_declared(name: str) -> None:
    assert FOUND.get(name) == WANTED[name], f"its row in the README should be:\n{row(name)}"


def test_the_rows_are_the_settings_in_their_order() -> None:
    assert list(FOUND) == list(WANTED), "the README's table should be:\n" + "\n".join(map(row, WANTED))


@pytest.mark.parametrize("name", [name for name, one in SETTINGS.items() if one.default in (MISSING, "", ())])
def test_a_default_in_words_has_no_number(name: str) -> None:
    assert re.fullmatch(r"[^0-9]+", WANTED[name][0])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_explained_in_a_sentence(name: str) -> None:
    doc = WANTED[name][1]

    assert doc.endswith(".") and len(doc) > 15
    assert not set(doc) & set("|\n")


def test_the_readme_says_which_settings_may_come_from_files() -> None:
    assert "_FILE" in README.read_text(encoding="utf-8")
