"""`/`, and the hint to whoever asks beside the API."""

import re
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient

import config
from app import create_app
from llmproxy import __version__
from services import Services
from tests.servers import environment

OPS_PORT = "9090"


def client_of(tmp_path: Path, **settings: str) -> FlaskClient:
    app: Flask = create_app(config.load(environment(tmp_path, **settings), embedded=True))
    if "OPS_BIND" in settings:
        Services.of(app).ops_ports.add(OPS_PORT)
    return app.test_client()


def test_the_address_alone_says_what_is_where(tmp_path: Path) -> None:
    text = client_of(tmp_path).get("/", base_url="http://proxy.test:8080").text

    for address in (
        "http://proxy.test:8080/v1 ",
        "http://proxy.test:8080/admin/",
        "http://proxy.test:8080/manage/openapi.json",
    ):
        assert address in text
    assert __version__ not in text


def test_a_browser_is_led_on(tmp_path: Path) -> None:
    browser = {"Accept": "text/html,*/*;q=0.8"}
    answer = client_of(tmp_path).get("/", base_url="http://proxy.test:8080", headers=browser)

    links = re.findall(r'href="http://proxy.test:8080/([^"]*)"', answer.text)
    assert answer.mimetype == "text/html" and links == ["admin/", "manage/openapi.json", "self"]


def test_addresses_are_below_the_path_that_a_front_server_gives(tmp_path: Path) -> None:
    client = client_of(tmp_path, ROOT_PATH="/llm")

    assert "http://localhost/llm/v1 " in client.get("/llm/").text
    assert client.post("/llm/chat/completions").json["error"]["message"].endswith("base_url=http://localhost/llm/v1")


def test_each_listener_tells_of_what_it_serves_alone(tmp_path: Path) -> None:
    client, ops = client_of(tmp_path, OPS_BIND=f"127.0.0.1:{OPS_PORT}"), {"SERVER_PORT": OPS_PORT}

    public = client.get("/")
    assert public.status_code == 404 and "/v1" in public.text and "admin" not in public.text
    assert "/admin/" in client.get("/", environ_overrides=ops).text
    assert "/v1" not in client.get("/", environ_overrides=ops).text
    assert "/v1" not in client.post("/v1/chat/completions", environ_overrides=ops).text


def test_a_page_that_is_not_there_does_not_speak_of_the_api(tmp_path: Path) -> None:
    assert "/v1" not in client_of(tmp_path).get("/manage/nothing").text
