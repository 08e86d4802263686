"""docs/browsers.md in a real Chromium: its page's code, with the token of its backend, from another origin."""

import re
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from mock_openai.mock import MockOpenAI
from tests.servers import DEPLOYED, MANAGEMENT_TOKEN, Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = dict(
    re.findall(
        r"<!-- executed by tests/browser/test_cross_origin\.py: (.*?) -->\n```[a-z]+\n(.*?)```",
        (ROOT / "docs/browsers.md").read_text(),
        re.DOTALL,
    )
)
SDK = ROOT / "tests/node/node_modules/openai"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}


class _Site(SimpleHTTPRequestHandler):
    """An empty page, and OpenAI's client for it."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def do_GET(self) -> None:
        if self.path == "/":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>A page</title>")
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Site, directory=str(SDK))) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def open_proxy(site: str, running_upstream: MockOpenAI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("open") / "data"
    with Server(DEPLOYED, data_dir, UPSTREAM_URL=running_upstream.url, CORS_ORIGINS=site) as server:
        yield server


@pytest.fixture
def page(chromium: Browser, site: str) -> Iterator[Page]:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(site)
    page.evaluate(EXECUTED["page"] + "window.stream = stream")
    yield page
    context.close()


@pytest.fixture
def secret(open_proxy: Server) -> str:
    """The token that the backend of the page issues."""
    names: dict[str, Any] = {
        "LLM_PROXY": open_proxy.url, "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN, "PROJECT_ID": open_proxy.create_project()
    }  # fmt: skip
    exec(EXECUTED["backend"], names)
    return names["token_for"]("ada")


def test_events_arrive_in_a_page_while_the_upstream_still_holds_back_the_next(
    page: Page, open_proxy: Server, upstream: MockOpenAI, secret: str
) -> None:
    gate = str(uuid.uuid4())
    page.expose_function("release", lambda: upstream.release(gate))
    got = page.evaluate(
        """async ([url, token, body, gate]) => {
            const plain = window.fetch;
            window.fetch = (where, options) => plain(where, { ...options,
                headers: { ...options.headers, "x-mock-gate": gate, "x-mock-events": "3" } });
            const got = [];
            for await (const event of stream(url, token, body)) { got.push(event); await release(); }
            return got;
        }""",
        [open_proxy.url, secret, CHAT, gate],
    )

    assert len(got) > 3
    assert {event["object"] for event in got} == {"chat.completion.chunk"}


def test_a_page_reads_why_it_was_refused(page: Page, open_proxy: Server) -> None:
    told = page.evaluate(
        """async ([url, body]) => {
            try { for await (const event of stream(url, "no-token", body)); } catch (error) { return error.message; }
        }""",
        [open_proxy.url, CHAT],
    )

    assert told.startswith("This token is not known to the proxy.")


def test_a_page_reads_any_header(page: Page, open_proxy: Server, secret: str) -> None:
    request_id = page.evaluate(
        """async ([url, token]) => {
            const headers = { Authorization: `Bearer ${token}` };
            return (await fetch(`${url}/v1/models`, { headers })).headers.get("x-proxy-request-id");
        }""",
        [open_proxy.url, secret],
    )

    assert open_proxy.record_of(request_id)["status_code"] == 200


def test_a_page_of_another_origin_gets_nothing(chromium: Browser, open_proxy: Server, secret: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{open_proxy.url}/healthz".replace("127.0.0.1", "localhost"))
    failed = page.evaluate(
        """async ([url, token]) => {
            try { await fetch(`${url}/v1/models`, { headers: { Authorization: `Bearer ${token}` } }); }
            catch (error) { return error.name; }
        }""",
        [open_proxy.url, secret],
    )
    context.close()

    assert failed == "TypeError"


@pytest.mark.skipif(not SDK.exists(), reason="OpenAI's client for Node is not installed (npm ci in tests/node)")
def test_openais_own_client_works_in_a_page(page: Page, site: str, open_proxy: Server, secret: str) -> None:
    told = page.evaluate(
        """async ([site, url, token, body]) => {
            const { default: OpenAI } = await import(`${site}/index.mjs`);
            const client = new OpenAI({ apiKey: token, baseURL: `${url}/v1`, dangerouslyAllowBrowser: true });
            const events = [];
            const chat = await client.chat.completions.create({ ...body, stream: true });
            for await (const event of chat) events.push(event);
            const wrong = new OpenAI({ apiKey: "x", baseURL: `${url}/v1`, dangerouslyAllowBrowser: true });
            const error = await wrong.models.list().catch((error) => [error.constructor.name, error.code]);
            return [events.length, error];
        }""",
        [site, open_proxy.url, secret, CHAT],
    )

    assert told[0] > 1
    assert told[1] == ["AuthenticationError", "invalid_api_key"]
