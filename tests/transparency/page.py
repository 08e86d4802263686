"""The tables of docs/transparency.md, which the suite runs."""

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "transparency.md"


class Route(NamedTuple):
    """One method of a documented route."""

    method: str
    path: str
    body: str
    answer: str


class HeaderRule(NamedTuple):
    """What becomes of a header; a name may end in `*`."""

    name: str
    rule: str

    def covers(self, name: str) -> bool:
        """Whether the rule speaks of this name."""
        mine, name = self.name.lower(), name.lower().replace("_", "-")
        return name.startswith(mine[:-1]) if mine.endswith("*") else name == mine.replace("_", "-")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, its head left out."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def routes() -> list[Route]:
    """Every method of every route, once for each form of its answer."""
    found = []
    for methods, path, body, answers in rows("Routes"):
        for method in methods.split(", "):
            carried = body if method == "POST" else "none"
            found += [Route(method, path.strip("`"), carried, answer) for answer in answers.split(", ")]
    return found


def header_rules(heading: str) -> list[HeaderRule]:
    """A table of header rules, one for each name."""
    return [HeaderRule(name, rule) for names, rule, _ in rows(heading) for name in re.findall("`([^`]+)`", names)]


def removes(rules: list[HeaderRule], name: str) -> bool:
    """Whether the page says that a header of this name is removed."""
    return any(rule.covers(name) for rule in rules if rule.rule == "removed")
