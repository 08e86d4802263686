from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from config import Settings
from llmproxy.telemetry import metrics
from services import Services
from tests.blueprints.conftest import Operator, close

METRICS_TOKEN = "metrics-token-of-the-tests"


@pytest.fixture
def guarded(settings: Settings) -> Iterator[FlaskClient]:
    """An application whose metrics are behind a token."""
    app = create_app(replace(settings, metrics_token=METRICS_TOKEN))
    yield app.test_client()
    close(app)


@pytest.mark.parametrize(("path", "status"), [("/healthz", "ok"), ("/readyz", "ready")])
def test_a_process_in_order_is_alive_and_ready(path: str, status: str, client: FlaskClient) -> None:
    response = client.get(path)

    assert (response.status_code, response.json) == (200, {"status": status})


def test_a_draining_process_is_alive_but_not_ready(app: Flask, client: FlaskClient) -> None:
    Services.of(app).draining.set()

    assert client.get("/healthz").status_code == 200
    response = client.get("/readyz")
    assert (response.status_code, response.json["error"]["code"]) == (503, "proxy_draining")


@pytest.mark.sqlite
def test_a_process_without_its_database_is_alive_but_not_ready(client: FlaskClient, settings: Settings) -> None:
    (settings.data_dir / "llm-proxy.db").unlink()

    assert client.get("/healthz").status_code == 200
    response = client.get("/readyz")
    assert (response.status_code, response.json["error"]["code"]) == (503, "auth_unavailable")


def with_key(settings: Settings, *keys: bytes) -> tuple[int, Any]:
    """How ready a node with these encryption keys is."""
    app = create_app(replace(settings, encryption_keys=keys))
    try:
        response = app.test_client().get("/readyz")
        return response.status_code, response.json
    finally:
        close(app)


def test_a_process_that_opens_no_stored_key_is_not_ready(operator: Operator, settings: Settings) -> None:
    other, right = b"x" * 32, settings.encryption_keys[0]
    assert with_key(settings, other)[0] == 200  # there is none yet
    operator.create_project()

    status, told = with_key(settings, other)
    assert (status, told["error"]["code"]) == (503, "auth_unavailable")
    assert with_key(settings, other, right) == (200, {"status": "ready"})


def test_a_process_that_opens_some_of_the_stored_keys_is_ready_and_says_so(
    operator: Operator, settings: Settings
) -> None:
    operator.create_project()
    app = create_app(replace(settings, encryption_keys=(b"x" * 32,)))
    Operator(app.test_client()).create_project(name="of another key")
    close(app)

    assert with_key(settings, *settings.encryption_keys) == (200, {"status": "degraded", "unreadable_keys": 1})


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_health_is_only_looked_at(path: str, method: str, client: FlaskClient) -> None:
    response = client.open(path, method=method)

    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]


def test_metrics_are_open_where_no_token_is_set(client: FlaskClient) -> None:
    response = client.get("/metrics")

    assert response.status_code == 200
    assert response.content_type == metrics.CONTENT_TYPE
    for name in ("llmproxy_requests_total", "llmproxy_requests_in_flight", "llmproxy_log_lost_records_total"):
        assert f"# TYPE {name}" in response.text or f"# TYPE {name.removesuffix('_total')}" in response.text


@pytest.mark.parametrize("sent", [f"Bearer {METRICS_TOKEN}", f"bearer {METRICS_TOKEN}"])
def test_metrics_are_shown_to_whoever_has_the_token(sent: str, guarded: FlaskClient) -> None:
    assert guarded.get("/metrics", environ_overrides={"HTTP_AUTHORIZATION": sent}).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "Bearer ",
        "Bearer wrong",
        METRICS_TOKEN,
        f"Basic {METRICS_TOKEN}",
        "Bearer \xe9",
        f"Bearer {METRICS_TOKEN}x",
    ],
)
def test_metrics_are_shown_to_nobody_else(sent: str, guarded: FlaskClient) -> None:
    response = guarded.get("/metrics", environ_overrides={"HTTP_AUTHORIZATION": sent})

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="metrics"'
    assert "llmproxy_" not in response.text


@pytest.mark.parametrize("path", ["/nothing", "/admins", "/healthz/"])
def test_what_is_not_there_is_a_404_in_openais_form(path: str, client: FlaskClient) -> None:
    response = client.get(path)

    assert response.status_code == 404
    assert set(response.json["error"]) == {"message", "type", "param", "code"}
