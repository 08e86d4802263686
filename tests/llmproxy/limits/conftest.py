from pathlib import Path

import pytest

from llmproxy.limits.prices import Prices, Sheet, read_sheet

SHEET = Path(__file__).resolve().parents[3] / "prices" / "openai.json"


@pytest.fixture(scope="session")
def sheet() -> Sheet:
    return read_sheet(SHEET.read_text())


@pytest.fixture(scope="session")
def prices(sheet: Sheet) -> Prices:
    return Prices(sheet)
