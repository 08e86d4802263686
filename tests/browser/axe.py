"""axe-core in a page: what it finds against accessibility."""

from pathlib import Path

from playwright.sync_api import Page

SOURCE = Path(__file__).resolve().parents[1] / "vendor" / "axe.min.js"
GRAVE = ("serious", "critical")
_RUN = """
(rules) => axe.run(document, {
    resultTypes: ["violations"], ...(rules.length ? {runOnly: rules} : {})
}).then((found) => found.violations.map((violation) => ({
    rule: violation.id,
    impact: violation.impact,
    nodes: violation.nodes.map((node) => node.target.join(" ") + ": " + node.failureSummary),
})))
"""


def grave_violations(page: Page, *rules: str) -> list[dict[str, object]]:
    """Serious and critical violations, of these rules or of all, with the elements that have them."""
    if not page.evaluate("'axe' in window"):
        # Not as a script element: the page's policy refuses those, as it should.
        page.evaluate(SOURCE.read_text())
    return [violation for violation in page.evaluate(_RUN, rules) if violation["impact"] in GRAVE]
