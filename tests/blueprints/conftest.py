"""The application without a server: a database per test, and an operator who calls its API."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2.bccache import Bucket, BytecodeCache
from werkzeug.test import TestResponse

from app import create_app
from config import Settings
from llmproxy import upstream
from models import db
from services import Services
from tests.databases import database_of

MANAGEMENT_TOKEN = "management-token-of-the-tests"
UPSTREAM_KEY = "sk-planted-upstream-key-0123456789"
UPSTREAM_URL = "https://upstream.test"


def settings_in(data_dir: Path, **changes: Any) -> Settings:
    """Complete settings with everything in one directory, and its database."""
    complete: dict[str, Any] = {
        "data_dir": data_dir,
        "database_url": database_of(data_dir),
        "upstream_url": UPSTREAM_URL,
        "management_token": MANAGEMENT_TOKEN,
        "admin_user": "admin",
        "admin_password": "admin-password-of-the-tests",
        "encryption_keys": (b"encryption-key-of-the-tests-32by",),
    }
    return Settings(**complete | changes)


def close(app: Flask) -> None:
    """Let go of everything an application holds open."""
    parts = Services.of(app)
    parts.log.close()
    parts.upstream.close()
    parts.admission._store.close()
    with app.app_context():
        db.engine.dispose()


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Reading the machine's certificates is most of an application's making."""
    context = upstream.verifying_context()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upstream, "verifying_context", lambda: context)
        yield


class CompiledTemplates(BytecodeCache):
    """What an application compiled is there for the next one."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType | None] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._codes[bucket.key, bucket.checksum] = bucket.code


@pytest.fixture(scope="session", autouse=True)
def templates_compiled_once() -> Iterator[None]:
    """Compiling them takes most of a page's time, and each test has an application of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flask, "jinja_options", {"bytecode_cache": CompiledTemplates()})
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    made = create_app(settings)
    yield made
    close(made)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


class Operator:
    """Calls the management API with the right token, and looks at the tables afterwards."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> TestResponse:
        """One call to `/manage…`; a body that is not bytes goes as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"} | options.pop("headers", {})
        return self.client.open(f"/manage{path}", method=method, data=data, headers=headers, **options)

    def create_project(self, **fields: Any) -> str:
        """The id of a new project."""
        response = self.call("POST", "/projects", {"name": "a project", "openai_api_key": UPSTREAM_KEY} | fields)
        assert response.status_code == 201, response.json
        return str(response.json["id"])

    def issue_token(self, project_id: str, **fields: Any) -> dict[str, Any]:
        """The answer to a token's making: its only showing."""
        response = self.call("POST", "/tokens", {"project_id": project_id, "duration_hours": 1} | fields)
        assert response.status_code == 201, response.json
        return dict(response.json)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A table's rows as they lie in the database."""
        with self.client.application.app_context(), db.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(db.metadata.tables[table].select())]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Everything an operator can change, and the trail of changes."""
        return {table: self.rows(table) for table in ("projects", "tokens", "audit")}


@pytest.fixture
def operator(client: FlaskClient) -> Operator:
    return Operator(client)
