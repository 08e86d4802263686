"""Every page in a real browser, wide and narrow, light and dark: it fits, is accessible, asks nothing elsewhere."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.axe import grave_violations
from tests.browser.chromium import signed_in
from tests.browser.looks import broken_texts
from tests.servers import Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

WIDTHS = (1440, 1280, 390)
EMPTY = {
    "empty-overview": "/admin/",
    "empty-projects": "/admin/projects",
    "empty-tokens": "/admin/tokens",
    "empty-token-new": "/admin/tokens/new",
    "empty-requests": "/admin/requests",
    "empty-audit": "/admin/audit",
}
# Of the page and of each card, which would hide it.
OVERFLOW = """Math.max(...[document.documentElement, ...document.querySelectorAll(".card")].map(
  (it) => it.scrollWidth - it.clientWidth
))"""


def pages_of(page: Page) -> dict[str, str]:
    """Every kind of page of the used proxy."""

    def first_link(path: str) -> str:
        page.goto(path)
        return page.locator("tbody a").first.get_attribute("href") or ""

    project, record = first_link("/admin/projects"), first_link("/admin/requests")
    failed, over = first_link("/admin/requests?outcome=failed"), first_link("/admin/tokens?state=revoked")
    token = first_link("/admin/tokens?state=live")
    page.goto(f"/admin/limits/new?token_id={token.rsplit('/', 1)[1]}")
    page.get_by_label("Amount").fill("2.50")
    page.get_by_role("button", name="Add limit").click()
    limit = page.get_by_role("link", name="USD per day").first.get_attribute("href") or ""
    return {
        "overview": "/admin/",
        "overview-7d": "/admin/?span=7d",
        "overview-30d": "/admin/?span=30d",
        "projects": "/admin/projects",
        "project": project,
        "project-new": "/admin/projects/new",
        "project-delete": f"{project}/delete",
        "project-off": f"{project}/switch",
        "project-revoke": f"{project}/revoke",
        "tokens": "/admin/tokens",
        "token": token,
        "token-new": "/admin/tokens/new",
        "limit": limit,
        "limit-delete": f"{limit}/delete",
        "limit-new": f"/admin/limits/new?project_id={project.rsplit('/', 1)[1]}",
        "rules": f"/admin/rules?token_id={token.rsplit('/', 1)[1]}",
        "rules-of-project": f"/admin/rules?project_id={project.rsplit('/', 1)[1]}",
        "token-rotate": f"{token}/rotate",
        "token-revoke": f"{token}/revoke",
        "requests": "/admin/requests",
        "requests-wrong": "/admin/requests?status=nonsense",
        "request": record,
        "request-failed": failed,
        "token-over": over,
        "audit": "/admin/audit",
        "health": "/admin/health",
        "nowhere": "/admin/nowhere",
    }


def look_at(page: Page, name: str, screenshot: Callable[[str], Path]) -> list[str]:
    """Keep pictures of an open page, light and dark; what is wrong with it."""
    page.evaluate("document.fonts.ready.then(() => true)")
    width = page.viewport_size["width"]
    problems = []
    # What else there is to find does not depend on the colours.
    for scheme, rules in (("light", []), ("dark", ["color-contrast"])):
        # Colours that move from one scheme to the other have, on their way, the contrast of neither.
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.screenshot(path=screenshot(f"{name}-{width}-{scheme}"), full_page=True)
        problems += [f"{name}, {scheme}: {violation}" for violation in grave_violations(page, *rules)]
    problems += [f"{name}: {broken}" for broken in broken_texts(page)]
    overflow = page.evaluate(OVERFLOW)
    return problems + ([f"{name}: {overflow} pixels too wide"] if overflow > 0 else [])


def look_at_all(page: Page, paths: dict[str, str], screenshot: Callable[[str], Path]) -> list[str]:
    """Open one page after the other; what is wrong with them."""
    problems = []
    for name, path in paths.items():
        page.goto(path)
        problems += look_at(page, name, screenshot)
    return problems


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_is_accessible(
    chromium: Browser, used_proxy: Server, screenshot: Callable[[str], Path], width: int
):
    with signed_in(chromium, used_proxy, width=width) as page:
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))

        assert look_at_all(page, pages_of(page), screenshot) == []
        assert [url for url in requested if not url.startswith(used_proxy.url)] == []


def test_empty_pages_fit_and_are_accessible(
    chromium: Browser, fresh_proxy: Server, screenshot: Callable[[str], Path]
):
    for width in WIDTHS:
        with signed_in(chromium, fresh_proxy, width=width) as page:
            assert look_at_all(page, EMPTY, screenshot) == []


def test_forms_with_errors_and_a_new_token_are_accessible(
    chromium: Browser, fresh_proxy: Server, screenshot: Callable[[str], Path]
):
    fresh_proxy.create_project(name="taken")
    for width in WIDTHS:
        with signed_in(chromium, fresh_proxy, width=width) as page:
            page.goto("/admin/projects/new")
            page.get_by_label("Name").fill("taken")
            page.get_by_label("API key").fill("sk-any-key-at-all")
            page.get_by_role("button", name="Create project").click()
            page.get_by_text("exists already").wait_for()
            assert look_at(page, "project-taken", screenshot) == []
            page.goto("/admin/tokens/new")
            page.get_by_role("button", name="Issue token").click()
            page.get_by_role("heading", name="Copy it now").wait_for()
            assert look_at(page, "token-issued", screenshot) == []


def test_rules_that_are_tried_and_set_fit_and_are_accessible(
    chromium: Browser, fresh_proxy: Server, screenshot: Callable[[str], Path]
):
    token = fresh_proxy.issue_token()
    for width in WIDTHS:
        with signed_in(chromium, fresh_proxy, width=width) as page:
            page.goto(f"/admin/rules?token_id={token.id}")
            page.get_by_label("Models optional").fill("gpt-5*")
            page.get_by_label("Endpoints by name").fill("chat, POST realtime/client_secrets")
            page.get_by_label("Body").fill('{"model": "o3"}')
            page.get_by_role("button", name="Try it").click()
            page.get_by_text("It would be refused.").wait_for()
            assert look_at(page, "rules-refused", screenshot) == []
            page.get_by_label("Service tiers").fill("cheap")
            page.get_by_role("button", name="Save rules").click()
            page.get_by_text("Entry 1 must be one of").wait_for()
            assert look_at(page, "rules-wrong", screenshot) == []
            page.get_by_label("Service tiers").fill("default")
            page.get_by_role("button", name="Save rules").click()
            page.get_by_text("Saved the rules.").wait_for()
            assert look_at(page, "token-with-rules", screenshot) == []


def test_pages_work_without_scripts(chromium: Browser, used_proxy: Server, screenshot: Callable[[str], Path]):
    with signed_in(chromium, used_proxy, scripts=False) as page:
        page.goto("/admin/")
        page.screenshot(path=screenshot("overview-without-scripts"), full_page=True)
        assert page.get_by_role("region", name="Numbers of the charts").is_visible()
        assert not page.locator(".charts").is_visible()
        page.goto("/admin/requests")
        assert page.get_by_role("button", name="Live").count() == 0
        assert page.get_by_role("button", name="Refresh").is_visible() or page.get_by_text("Refresh").is_visible()


def test_the_keyboard_leads_past_the_navigation_and_shows_where_it_is(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/tokens")
        page.keyboard.press("Tab")

        skip = page.get_by_role("link", name="Skip to the content")
        assert skip.evaluate("element => element === document.activeElement")
        assert skip.bounding_box()["y"] >= 0
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        focus = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
        assert page.evaluate(focus) == "solid"


def test_all_charts_tell_their_numbers_beside_the_pointer(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/?span=30d")
        page.locator(".u-over").first.hover()

        tips = page.locator("figure .tip:visible")
        expect(tips).to_have_count(4)
        moments = {moment.partition(",")[0] for moment in tips.locator(".at").all_inner_texts()}
        assert page.locator("figure").count() == 4
        (day,) = moments
        row = page.locator(".numbers tbody tr").filter(has=page.locator("th", has_text=day))
        assert tips.locator("b").all_inner_texts() == row.locator("td").all_text_contents()


def test_refusals_and_errors_of_one_day_are_both_seen_in_its_bar(chromium: Browser, used_proxy: Server):
    # How many pixels of the canvas each tone has.
    runs = """([canvas, tones]) => {
      const ink = canvas.getContext("2d");
      const probe = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
      const { data } = ink.getImageData(0, 0, canvas.width, canvas.height);
      return tones.map((tone) => {
        probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(tone).trim();
        probe.fillRect(0, 0, 1, 1);
        const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
        const isTone = (at) => data[at] === r && data[at + 1] === g && data[at + 2] === b;
        return data.reduce((count, _, at) => count + (at % 4 === 0 && isTone(at)), 0);
      });
    }"""
    tones = ["--fresh", "--deep", "--fading", "--withered"]
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/?span=30d")
        canvas = page.locator("figure canvas").first.element_handle()
        areas = page.evaluate(runs, [canvas, tones])
        rows = page.locator(".numbers tbody tr").all()
        told = [sum(int(row.locator("td").nth(i).text_content().replace(",", "")) for row in rows) for i in range(4)]

    shares = [area / sum(areas) for area in areas]
    # The edges of a piece are blended and of no tone, which takes most from the small ones.
    assert shares == pytest.approx([count / sum(told) for count in told], abs=0.06), (areas, told)
    # Of those whose client left there are so few that nothing but an edge may be left of their piece.
    assert min(areas[2:]) > 0


def test_the_first_page_comes_again_in_the_readers_zone_which_can_be_left_and_taken_up_again(
    chromium: Browser, used_proxy: Server
):
    with signed_in(chromium, used_proxy, time_zone="Asia/Kolkata") as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if request.is_navigation_request() else None)
        page.goto("/admin/?span=24h")
        expect(page.get_by_text("this browser's zone")).to_contain_text("Times are those of Asia/")
        page.locator(".u-over").first.hover()

        expect(page.locator("figure").first.locator(".tip .at")).to_have_text(re.compile(r":30 GMT\+5:30$"))
        assert page.locator(".numbers th[scope=row]").first.text_content().endswith(":30")
        page.goto("/admin/requests")
        assert [urlsplit(url).path for url in asked] == ["/admin/", "/admin/", "/admin/requests"]
        page.get_by_role("button", name="Use UTC").click()
        expect(page.get_by_text("Times are those of UTC, set by ADMIN_TIME_ZONE.")).to_be_visible()
        page.goto("/admin/tokens/new")
        expect(page.get_by_text("Times are those of UTC")).to_be_visible()
        page.get_by_role("button", name="Use Asia/").click()
        expect(page.get_by_text("this browser's zone")).to_contain_text("Times are those of Asia/")


def test_readers_whose_browser_tells_no_zone_are_told_the_configured_one(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy, time_zone="Asia/Kolkata", scripts=False) as page:
        page.goto("/admin/requests")

        expect(page.get_by_text("Times are those of UTC, set by ADMIN_TIME_ZONE.")).to_be_visible()
        expect(page.locator("[data-other-zone]")).to_be_hidden()
        expect(page.get_by_label("From (UTC)")).to_be_attached()


def test_utc_is_seen_where_there_is_no_pointer_to_ask_with(chromium: Browser, used_proxy: Server):
    shown = "getComputedStyle(document.querySelector('tbody time'), '::after').content"
    with signed_in(chromium, used_proxy, width=390, touch=True, time_zone="Europe/Berlin") as page:
        page.goto("/admin/requests")
        expect(page.get_by_text("this browser's zone")).to_be_attached()
        assert re.search(r"CES?T, .*UTC", page.evaluate(shown))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    with signed_in(chromium, used_proxy, time_zone="Europe/Berlin") as page:
        page.goto("/admin/requests")
        assert page.evaluate(shown) == "none"


# Cells whose content goes beyond them, and texts of two cells that meet.
OVERLAPS = """() => {
  const boxes = (cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return [...range.getClientRects()];
  };
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return [...document.querySelectorAll(".cards tbody tr")].flatMap((row) => {
    const cells = [...row.children];
    const wide = cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1);
    const covered = cells.filter((cell, at) => cells.slice(at + 1)
      .some((other) => boxes(cell).some((a) => boxes(other).some((b) => meet(a, b)))));
    return [...wide, ...covered].map((cell) => cell.textContent.trim());
  });
}"""
# How high the status of each request is, beside whose first line its time stands, and below that the time in UTC.
STATUS_HEIGHTS = """() => [...document.querySelectorAll(".cards td[data-label=Status]")]
  .map((cell) => cell.getBoundingClientRect().height)"""


@pytest.mark.parametrize("name", ["requests", "tokens", "projects"])
def test_nothing_of_a_lists_row_covers_another_part_on_a_phone(chromium: Browser, used_proxy: Server, name: str):
    with signed_in(chromium, used_proxy, width=390, touch=True, time_zone="Europe/Berlin") as page:
        page.goto(f"/admin/{name}")
        expect(page.get_by_text("this browser's zone")).to_be_attached()  # in which it comes again
        assert page.locator(".cards tbody tr").count() > 3
        assert page.evaluate(OVERLAPS) == []
        if name == "tokens":
            page.locator("tbody input[type=checkbox]").first.check(timeout=5000)
        if name == "requests":
            page.goto("/admin/requests?outcome=failed")
            assert page.locator(".cards .outcome").count() > 3
            assert page.evaluate(OVERLAPS) == []
            assert max(page.evaluate(STATUS_HEIGHTS)) < 35


def test_a_chart_keeps_its_width_when_the_window_changes(chromium: Browser, used_proxy: Server):
    with signed_in(chromium, used_proxy) as page:
        page.goto("/admin/")
        page.set_viewport_size({"width": 500, "height": 800})
        page.wait_for_function(
            "[...document.querySelectorAll('.uplot')].every((it) => it.offsetWidth <= it.parentNode.offsetWidth)"
        )

        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
