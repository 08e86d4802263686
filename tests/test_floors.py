"""The floors that docs/architecture.md draws, held by looking at the imports."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
OTHERS = {"deploy", "migrations", "tests"}  # code that no module of the product imports


def table(heading: str) -> list[tuple[list[str], list[str]]]:
    """The rows of the table under these column titles: the names in either column."""
    rows = PAGE.partition(f"| {heading} |\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [(re.findall("`([^`]+)`", left), re.findall("`([^`]+)`", right)) for left, right in map(halves, rows)]


def halves(row: str) -> list[str]:
    return row.strip("| ").split(" | ", 1)


def floors(begin: str) -> dict[str, int]:
    """Name -> floor, of the first table of floors behind these words; the roof has the lowest number."""
    rows = PAGE.partition(begin)[2].partition("| Floor | Names |\n")[2].partition("\n\n")[0].splitlines()[1:]
    return {name: number for number, row in enumerate(rows) for name in re.findall("`([^`]+)`", row)}


HOUSE, DATA_PLANE = floors("## Floors"), floors("Within `llmproxy`")
FILES = {
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in OTHERS and not {".venv", "node_modules"} & set(path.parts)
}


@cache
def imports(module: str) -> set[str]:
    """Every module that one imports, wherever in it, by its full name."""
    return set(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module or "" for name in names)


def name_of(module: str) -> str:
    return module if module in HOUSE else module.partition(".")[0]


def room_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("llmproxy.") else ""


def test_the_root_holds_what_the_page_names():
    named = {name for left, _ in table("At the root | What it is") for name in left}

    there = {path.name for path in ROOT.glob("*.py")}
    there |= {f"{name.partition('.')[0]}/" for name in FILES if "." in name and not (ROOT / f"{name}.py").exists()}
    assert there == named


@pytest.mark.parametrize(("of", "floor"), [(name_of, HOUSE), (room_of, DATA_PLANE)], ids=["house", "llmproxy"])
def test_imports_lead_downwards(of, floor):
    arrows = {(of(module), of(name)) for module in FILES for name in imports(module) if name in FILES}

    assert {name for module in FILES if (name := of(module))} == set(floor)
    assert [(a, b) for a, b in arrows if a != b and a and b and floor[a] >= floor[b]] == []


def test_there_is_no_circle():
    TopologicalSorter({module: imports(module) - {module} for module in FILES}).prepare()


def test_libraries_stay_in_their_rooms():
    for rooms, libraries in table("Nobody but these | may import"):
        for library in libraries:
            users = {module for module in FILES if library in {name.partition(".")[0] for name in imports(module)}}
            assert [user for user in users if not f"{user}.".startswith(tuple(f"{room}." for room in rooms))] == []


def test_nobody_below_the_application_asks_flask_for_its_session():
    users = {name_of(name) for name in FILES if re.search(r"\bdb\.(session|engine)\b", FILES[name].read_text())}

    assert users <= {"app", "blueprints", "commands", "measure"}


def test_config_alone_reads_the_environment():
    reads = re.compile(r"\bos\.(environ|getenv|putenv|unsetenv)|from os import .*\b(environ|getenv)")
    product = [name for name in FILES if name_of(name) not in {"measure", "benchmark", "mock_openai", "locustfile"}]

    assert [name for name in product if reads.search(FILES[name].read_text())] == ["config"]
