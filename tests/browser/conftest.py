"""A Chromium, a proxy that has been in use for a month, and proxies that nobody has used yet."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

import config
from app import create_app
from llmproxy.admission import utc_now
from measure.admin_seed import seed
from mock_openai.mock import MockOpenAI
from models import db
from services import Services
from tests.browser.chromium import launch
from tests.servers import DEPLOYED, Server, environment


# Not for the whole session: while Playwright runs, no other test could start an event loop of its own.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def used_proxy(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A proxy with projects, tokens in every state and some thousand records."""
    data_dir = tmp_path_factory.mktemp("used") / "data"
    app = create_app(config.load(environment(data_dir), embedded=True))
    seed(app, tokens=60, records=6000, now=utc_now())
    Services.of(app).log.close()
    with app.app_context():
        db.engine.dispose()
    with Server(DEPLOYED, data_dir) as server:
        yield server


@pytest.fixture
def fresh_proxy(chromium: Browser, running_upstream: MockOpenAI, tmp_path: Path) -> Iterator[Server]:
    """A proxy that nobody has used yet, in front of the mock upstream."""
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=running_upstream.url) as server:
        yield server
        assert "Traceback" not in server.output()


@pytest.fixture(scope="session")
def screenshot() -> Callable[..., Path]:
    """Where a screenshot of this name goes: CI keeps the folder."""
    folder = Path(__file__).resolve().parents[2] / "test-output" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: folder / f"{name}.png"
