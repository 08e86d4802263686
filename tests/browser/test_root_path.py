"""The admin pages below a path of an nginx: an operator never leaves it, and is signed in all the time."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from mock_openai.mock import MockOpenAI
from tests.browser.chromium import signed_in
from tests.nginx import Nginx, needs_nginx
from tests.ports import free_port
from tests.servers import DEPLOYED, UPSTREAM_KEY, Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120), needs_nginx]

OPERATIONS = Path(__file__).resolve().parents[2] / "docs/operations.md"


@pytest.fixture
def below(running_upstream: MockOpenAI, tmp_path: Path) -> Iterator[Server]:
    """A proxy whose address is a path of an nginx with the page's lines."""
    (lines,) = re.findall(r"below a path -->\n```nginx\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    settings = {"UPSTREAM_URL": running_upstream.url, "ROOT_PATH": "/llm", "TRUSTED_PROXIES": "127.0.0.1"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        port = free_port()
        with Nginx(
            tmp_path, port, f"server {{ listen 127.0.0.1:{port}; {lines.replace('http://llm_proxy', server.url)} }}"
        ):
            server.url = f"http://127.0.0.1:{port}/llm"
            yield server


def test_an_operators_day_below_a_path(chromium: Browser, below: Server) -> None:
    seen: set[tuple[str, int]] = set()
    with signed_in(chromium, below) as page:
        page.on("response", lambda response: seen.add((urlsplit(response.url).path, response.status)))
        page.goto(f"{below.url}/admin")
        page.get_by_role("link", name="New project").or_(page.get_by_role("button", name="New project")).click()
        page.get_by_label("Name").fill("Support")
        page.get_by_label("API key").fill(UPSTREAM_KEY)
        page.get_by_role("button", name="Create project").click()
        expect(page.get_by_role("heading", name="Support", level=1)).to_be_visible()
        page.goto(f"{below.url}/admin/tokens/new")
        page.get_by_label("Label").fill("ci")
        page.get_by_role("button", name="Issue token").click()
        expect(page.get_by_label("The new token")).to_be_visible()
        assert f"{below.url}/v1" in page.locator("#snippet-curl").inner_text()
        for name in ("Overview", "Projects", "Tokens", "Requests", "Audit", "Health"):
            page.get_by_role("link", name=name).first.click()
            expect(page).to_have_url(re.compile(re.escape(f"{below.url}/admin/")))
        cookies = page.context.cookies()

    assert {cookie["path"] for cookie in cookies} == {"/llm/admin"}
    assert [path for path, _ in seen if not path.startswith("/llm/admin")] == []
    assert {status for _, status in seen} <= {200, 201, 303, 304, 308, 401}
