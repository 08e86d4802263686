"""The settings that hold, on Health: values as an operator writes them, and of secrets only that they are set."""

import base64
import html
import re
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import TestResponse

import config
from app import create_app
from blueprints.admin.effective import effective
from config import SECRETS, SETTINGS
from models import db
from services import Services
from tests.blueprints.admin.site import PASSWORD, Browser, Script
from tests.databases import database_of
from tests.servers import environment

PLANTED = {
    "HTTPS_PROXY": "http://user:planted-1@proxy.test:3128",
    "HTTP_PROXY": "http://user:planted-2@proxy.test:3129",
    "MANAGEMENT_TOKEN": "planted-management-token",
    "ADMIN_PASSWORD": PASSWORD,
    "ENCRYPTION_KEY": base64.b64encode(b"planted-key-of-thirty-two-bytes!").decode(),
    "LOGGING_URL": "http://user:planted-3@127.0.0.1:9/ingest?key=planted-4",
    "LOGGING_TOKEN": "planted-logging-token",
    "METRICS_TOKEN": "planted-metrics-token",
    "ALERT_URL": "http://127.0.0.1:9/hook/planted-7",
    "ALERT_SECRET": "whsec_" + base64.b64encode(b"planted-alert-secret-of-32-bytes").decode(),
    "OTEL_EXPORTER_OTLP_HEADERS": "key=planted-5",
}
AS_JSON = {"Accept": "application/json"}
PARTS = [*PLANTED.values(), *(f"planted-{number}" for number in (1, 2, 3, 4, 5, 7)), "proxy.test"]


@pytest.fixture
def site(tmp_path: Path):
    """A proxy with every secret set, and more."""
    more = {
        "DATABASE_URL": database_of(tmp_path),
        "TRUSTED_PROXIES": "10.0.0.0/8",
        "NO_PROXY": "*.internal:8080,10.1.0.0/16",
        "LOG_FILE_MODE": "0640",
        "CUT_STREAMS": "off",
        "IDLE_TIMEOUT": "2.5",
        "ADMIN_TIME_ZONE": "Europe/Berlin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:planted-6@127.0.0.1:9",
    }
    app = create_app(config.load(environment(tmp_path, **PLANTED | more), embedded=True))
    yield app
    Services.of(app).log.close()
    Services.of(app).admission._store.close()
    with app.app_context():
        db.engine.dispose()


def answers(site: Flask) -> list[TestResponse]:
    """The page, and what a script gets."""
    told = [Browser(site).get("/admin/health"), Script(site).send("GET", "/admin/health", headers=AS_JSON)]
    assert [answer.status_code for answer in told] == [200, 200]
    return told


def shown(site: Flask) -> dict[str, str]:
    return answers(site)[1].json["settings"]


def test_no_secret_stands_on_the_page_or_in_its_json(site: Flask) -> None:
    assert set(SECRETS) == {*PLANTED, "DATABASE_URL"}
    text = "".join(html.unescape(answer.text) for answer in answers(site))

    told = [part for part in [*PARTS, "planted-6", Services.of(site).settings.database_url] if part in text]

    assert told == []
    assert {shown(site)[name] for name in SECRETS} == {"set"}


def test_every_setting_is_told_as_one_writes_it(site: Flask) -> None:
    settings = shown(site)

    assert set(settings) == set(SETTINGS)
    expected = {
        "TRUSTED_PROXIES": "10.0.0.0/8",
        "NO_PROXY": "internal:8080, 10.1.0.0/16",
        "LOG_FILE_MODE": "0640",
        "CUT_STREAMS": "off",
        "IDLE_TIMEOUT": "2.5",
        "ADMIN_TIME_ZONE": "Europe/Berlin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "PRICES_FILE": "–",
        "FIRST_BYTE_TIMEOUT": "600",
    }
    assert {name: settings[name] for name in expected} == expected


def test_a_setting_that_was_changed_is_told_from_one_that_was_not(site: Flask) -> None:
    text = re.sub(r"<[^>]+>", " ", answers(site)[0].text)

    changed, others = re.split(r"\d+ others, as they are by default", text)
    assert re.search(r"IDLE_TIMEOUT\s+2\.5", changed) and "IDLE_TIMEOUT" not in others
    assert re.search(r"FIRST_BYTE_TIMEOUT\s+600", others) and "FIRST_BYTE_TIMEOUT" not in changed


def test_an_address_to_listen_on_is_told_as_one_writes_it(site: Flask) -> None:
    settings = replace(Services.of(site).settings, ops_bind=("::1", 9090), prices=None)

    told = {one.name: one.value for one in effective(settings)}

    assert (told["OPS_BIND"], told["PRICES_FILE"]) == ("[::1]:9090", "none")
