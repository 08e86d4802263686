"""One proxy per test, in this process, with an empty database."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import config
import storage
from app import create_app
from blueprints.services import services_of
from llmproxy.api_log.record import CallRecord
from models import db
from tests.blueprints.admin.site import PASSWORD, Browser, Script
from tests.servers import environment


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database at the newest schema: migrating takes longer than most tests."""
    data_dir = tmp_path_factory.mktemp("migrated")
    app = create_app(_settings(data_dir))
    storage.migrate_to_head(app, data_dir)
    with app.app_context():
        db.engine.dispose()
    return (data_dir / "llm-proxy.db").read_bytes()


@pytest.fixture
def app(tmp_path: Path, migrated: bytes) -> Iterator[Flask]:
    (tmp_path / "llm-proxy.db").write_bytes(migrated)
    app = create_app(_settings(tmp_path))
    yield app
    services_of(app).log.close()
    with app.app_context():
        db.engine.dispose()


def _settings(data_dir: Path) -> config.Settings:
    environ = environment(data_dir, ADMIN_PASSWORD=PASSWORD, UPSTREAM_URL="http://127.0.0.1:9", MANAGEMENT_TOKEN=None)
    return config.load(environ, embedded=True)


@pytest.fixture
def browser(app: Flask) -> Browser:
    return Browser(app)


@pytest.fixture
def script(app: Flask) -> Script:
    return Script(app)


@pytest.fixture
def write_record(app: Flask) -> Callable[..., CallRecord]:
    """Writes a record to the call log, changed by the arguments."""

    def write(**changes: Any) -> CallRecord:
        facts: dict[str, Any] = {
            "timestamp": datetime.now(UTC).timestamp(),
            "request_id": "11111111-2222-4333-8444-555555555555",
            "token": None,
            "project_id": None,
            "endpoint": "/v1/chat/completions",
            "method": "POST",
            "status_code": 200,
            "duration_ms": 12.5,
            "metadata": {"model": "gpt-4o-mini", "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            "outcome": "complete",
            "stream": False,
            "ttft_ms": 10.0,
            "upstream_status": 200,
            "upstream_request_id": "req_1",
            "bytes_in": 1,
            "bytes_out": 2,
            "usage_source": "reported",
            "error": None,
        }
        record = CallRecord(**facts | changes)
        assert services_of(app).log.write(record)
        return record

    return write
