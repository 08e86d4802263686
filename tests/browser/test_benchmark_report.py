"""The report of llm-benchmark in a real browser, wide and narrow, light and dark: it fits and is accessible."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from mock_openai.mock import MockOpenAI
from tests.browser.axe import grave_violations
from tests.browser.looks import broken_texts
from tests.servers import ROOT

# Texts of a drawn chart that are cut by its edge, or stand on each other.
CUT_OR_COVERED = """
() => [...document.querySelectorAll("svg")].filter((svg) => svg.clientWidth).flatMap((svg) => {
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map((one) => [one.textContent, one.getBoundingClientRect()]);
    const over = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2;
    return texts.flatMap(([name, box], place) => [
        ...(box.left < edge.left - 1 || box.right > edge.right + 1 ? [`${name} is cut`] : []),
        ...texts.slice(place + 1).filter(([, other]) => over(box, other)).map(([other]) => `${name} on ${other}`),
    ]);
})
"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

STREAMS = ["--stream", "--header=x-mock-gap-ms: 2", "--header=x-mock-stamp: 1", "--ttft-limit=500"]
REPORTS = {
    "compared": ["--requests=60", "--concurrency=6"],
    "swept": ["--sweep=1,2,4,8", "--requests=16", *STREAMS],
    "failed": ["--requests=12", "--header=x-mock-status: 429"],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Measures two stand-ins, once for each name, and says where the report is."""
    folder = tmp_path_factory.mktemp("reports")

    def of(name: str) -> str:
        path = folder / f"{name}.html"
        if not path.exists():
            with MockOpenAI() as first, MockOpenAI() as second:
                subprocess.run(
                    [sys.executable, str(ROOT / "llm-benchmark"), f"--base-url={first.url}",
                     f"--compare={second.url}", f"--html={path}", *REPORTS[name]],
                    env={"PATH": "/usr/bin:/bin", "LLM_BENCHMARK_TOKEN": "sk-any"}, capture_output=True, timeout=200,
                    check=False,
                )  # fmt: skip
        return path.as_uri()

    return of


def opened(browser: Browser, url: str, *, width: int, scheme: str) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(url)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", REPORTS)
def test_a_report_fits_and_is_accessible(
    chromium: Browser,
    report: Callable[[str], str],
    screenshot: Callable[[str], Path],
    name: str,
    width: int,
    scheme: str,
):
    page = opened(chromium, report(name), width=width, scheme=scheme)
    page.screenshot(path=screenshot(f"benchmark-{name}-{width}-{scheme}"), full_page=True)

    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert grave_violations(page) == [] and page.faults == [] and broken_texts(page) == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_no_label_of_a_chart_stands_on_another_or_is_cut(chromium: Browser, report: Callable[[str], str], width: int):
    page = opened(chromium, report("swept"), width=width, scheme="light")
    faults = page.evaluate(CUT_OR_COVERED)

    assert page.locator("svg:visible").count() >= 8 and faults == []
    page.close()


def test_the_pointer_reads_both_curves(chromium: Browser, report: Callable[[str], str]):
    page = opened(chromium, report("compared"), width=1280, scheme="light")
    card = page.locator("section", has_text="How long responses took").first
    card.locator("svg:visible").hover()

    expect(card.locator(".readout")).to_contain_text(" against ")
    assert page.faults == []
    page.close()
