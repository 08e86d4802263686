"""SQLite's claims when the disk has been read-only for a moment."""

import sqlite3
from pathlib import Path

import pytest

from database.claims.sqlite import SqliteTokenStore
from database.engine import open_engine
from database.schema import migrate_to_head
from llmproxy.admission import StoreUnavailable, utc_now


def test_a_connection_that_can_only_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "llm-proxy.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate_to_head(engine, tmp_path)
    engine.dispose()
    store = SqliteTokenStore(f"sqlite:///{path}", default_limit=10)
    read_only = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(store, "_connect", lambda: read_only)
        with pytest.raises(StoreUnavailable, match="READONLY"):
            store.claim("0" * 64, utc_now())

    assert store.claim("0" * 64, utc_now()) is None
    store.close()
