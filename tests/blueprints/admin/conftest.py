"""One proxy per test, in this process, with an empty database."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import config
from app import create_app
from control import tokens
from control.audit import Actor
from llmproxy.api_log.record import CallRecord
from models import db
from services import Services
from tests.blueprints.admin.site import PASSWORD, Browser, Script
from tests.servers import environment


@pytest.fixture
def time_zone() -> str | None:
    """ADMIN_TIME_ZONE."""
    return None


@pytest.fixture
def app(tmp_path: Path, time_zone: str | None) -> Iterator[Flask]:
    fixed = {"UPSTREAM_URL": "http://127.0.0.1:9", "MANAGEMENT_TOKEN": None}
    environ = environment(tmp_path, ADMIN_PASSWORD=PASSWORD, ADMIN_TIME_ZONE=time_zone, **fixed)
    app = create_app(config.load(environ, embedded=True))
    yield app
    Services.of(app).log.close()
    Services.of(app).admission._store.close()
    with app.app_context():
        db.engine.dispose()


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
            "token_id": None,
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
        assert Services.of(app).log.write(record)
        return record

    return write


@pytest.fixture
def issued(app: Flask, browser: Browser) -> tuple[str, str]:
    """The secret and the id of a token."""
    project = browser.create_project("of the secret")
    with app.app_context():
        secret, token = tokens.issue(db.session, Actor("test"), project_id=project, lifetime=timedelta(hours=1))
        return secret, token.id
