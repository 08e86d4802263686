"""The tables as others see them, and a time to be moved."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, text

from control import audit, projects, tokens
from tests.control.changes import Dump


@pytest.fixture
def dump(database: Engine) -> Dump:
    """Everything in the tables, as another connection sees it."""

    def everything() -> dict[str, list[dict[str, Any]]]:
        with database.connect() as connection:
            return {
                table: [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY id"))]
                for table in ("projects", "tokens", "audit")
            }

    return everything


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time, to be moved."""
    time = [datetime(2026, 1, 1, tzinfo=UTC)]
    for module in (audit, projects, tokens):
        monkeypatch.setattr(module, "utc_now", lambda: time[0])
    return time
