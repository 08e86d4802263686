"""The README's table of settings says what config.py does, name by name and default by default."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import config

README = Path(__file__).parent.parent / "README.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*?) \| (.*) \|$", re.MULTILINE)
ROWS = {name: (default, meaning) for name, default, meaning in ROW.findall(README.read_text(encoding="utf-8"))}
DEFAULTS = {field.name: field.default for field in fields(config.Settings)}
# Defaults that only words can tell: made at the start, taken from the machine, or none.
IN_WORDS = {
    "DATABASE_URL", "MANAGEMENT_TOKEN", "ADMIN_USER", "ADMIN_PASSWORD", "ENCRYPTION_KEY", "WEB_CONCURRENCY",
    "LOGGING_URL", "LOGGING_TOKEN", "METRICS_TOKEN",
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS",
}  # fmt: skip


def test_every_setting_has_its_row_and_every_row_its_setting() -> None:
    assert set(ROWS) == set(config.ENVIRONMENT)


def test_rows_stand_in_the_order_of_the_settings() -> None:
    assert list(ROWS) == list(config.ENVIRONMENT)


@pytest.mark.parametrize("name", sorted(set(config.ENVIRONMENT) - IN_WORDS))
def test_the_default_in_the_table_is_the_default(name: str) -> None:
    default = DEFAULTS[config.ENVIRONMENT[name]]
    shown = str(default).lower() if isinstance(default, bool) else str(default)

    assert ROWS[name][0] == f"`{shown}`"


@pytest.mark.parametrize("name", sorted(IN_WORDS))
def test_a_default_in_words_has_no_number(name: str) -> None:
    assert re.fullmatch(r"[^0-9]+", ROWS[name][0])


@pytest.mark.parametrize("name", sorted(config.ENVIRONMENT))
def test_every_setting_is_explained_in_a_sentence(name: str) -> None:
    assert ROWS[name][1].endswith(".")
    assert len(ROWS[name][1]) > 15


def test_the_readme_says_which_settings_may_come_from_files() -> None:
    assert "_FILE" in README.read_text(encoding="utf-8")
