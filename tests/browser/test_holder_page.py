"""The page where a token's holder looks at it: wide and narrow, light and dark."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.axe import grave_violations
from tests.servers import Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_holder_pastes_its_token_and_sees_what_is_left(
    chromium: Browser, fresh_proxy: Server, screenshot: Callable[[str], Path], width: int
) -> None:
    token = fresh_proxy.issue_token(budget={"usd": "2.00", "per": "day"}, label="student 07")
    context = chromium.new_context(base_url=fresh_proxy.url, viewport={"width": width, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))

    page.goto("/self")
    page.get_by_label("Paste it").fill(token.secret)
    page.get_by_role("button", name="Show").click()

    page.get_by_text("of $2.00 per day").wait_for()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.screenshot(path=screenshot(f"self-{width}-{scheme}"), full_page=True)
        assert grave_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert (problems, context.cookies()) == ([], [])
    context.close()
