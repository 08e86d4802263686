"""axe-core in a page: what it finds against accessibility."""

from pathlib import Path

from playwright.sync_api import Page

SOURCE = Path(__file__).resolve().parents[1] / "vendor" / "axe.min.js"
GRAVE = ("serious", "critical")
_RUN = """
() => axe.run(document, {resultTypes: ["violations"]}).then((found) => found.violations.map((violation) => ({
    rule: violation.id,
    impact: violation.impact,
    nodes: violation.nodes.map((node) => node.target.join(" ") + ": " + node.failureSummary),
})))
"""


def grave_violations(page: Page) -> list[dict[str, object]]:
    """Serious and critical violations, with the elements that have them."""
    # Not as a script element: the page's policy refuses those, as it should.
    page.evaluate(SOURCE.read_text())
    return [violation for violation in page.evaluate(_RUN) if violation["impact"] in GRAVE]
