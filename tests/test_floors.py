"""The floors of docs/architecture.md, held by looking at the imports: they lead downwards only."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# From the roof down. A module imports what stands below it, or is of its own package.
FLOORS = (
    "wsgi", "gunicorn.conf", "gunicorn_worker", "gunicorn_request", "gunicorn_response", "gunicorn_master",
    "stopping", "background", "app", "cli", "cli_database",
    "blueprints", "ledger", "cleanup", "database_copy", "recount", "rollup", "usage_report", "operations", "cutting",
    "token_store", "lease", "storage", "postgres_connection", "usage_fold", "usage_tables", "models",
    "first_run", "config", "process_log", "llmproxy",
)  # fmt: skip

# The rooms of llmproxy where nothing is read, written, waited for or sent.
PURE = {
    "llmproxy.errors", "llmproxy.keyring", "llmproxy.headers", "llmproxy.sse", "llmproxy.usage",
    "llmproxy.usage_facts", "llmproxy.websocket_frames", "llmproxy.websocket_handshake", "llmproxy.websocket_usage",
    "llmproxy.json_scan", "llmproxy.decoding", "llmproxy.stream_usage",
    "llmproxy.api_log.record", "llmproxy.endpoints",
}  # fmt: skip
INPUT_AND_OUTPUT = {
    "_socket", "fcntl", "gevent", "httptools", "logging", "pathlib", "requests", "select", "shutil", "socket", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib3",
}  # fmt: skip

# Scripts that measure parts of the product must import them; the benchmark itself sees it from outside alone.
MEASURING = {"admin_pages", "admin_seed", "claim_cost", "claim_growth", "ledger_cost", "observer_cost", "rollup_cost"}


def sources() -> list[Path]:
    """The product's own modules."""
    packages = [path for name in ("blueprints", "llmproxy", "token_store") for path in (ROOT / name).rglob("*.py")]
    at_the_root = [path for path in ROOT.glob("*.py") if path.stem != "locustfile"]
    return sorted([*at_the_root, *packages])


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, by its full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def top_of(path: Path) -> str:
    module = module_of(path)
    return module if module in FLOORS else module.partition(".")[0]


SOURCES = sources()
Offenders = dict[str, set[str]]


def offenders(paths: list[Path], forbidden: Callable[[Path], set[str]]) -> Offenders:
    """What each module imports though it may not; modules that keep to the rule are left out."""
    assert paths, "a rule that holds for no module holds nothing"
    return {module_of(path): found for path in paths if (found := forbidden(path))}


def test_every_module_has_its_floor() -> None:
    assert {top_of(path) for path in SOURCES} == set(FLOORS)


def test_imports_lead_downwards() -> None:
    def above(path: Path) -> set[str]:
        return tops(path) & set(FLOORS[: FLOORS.index(top_of(path))])

    assert offenders(SOURCES, above) == {}


def test_nothing_of_the_product_imports_its_tests_its_benchmark_or_locust() -> None:
    assert (
        offenders(SOURCES, lambda path: tops(path) & {"tests", "benchmark", "locust", "locustfile", "pytest"}) == {}
    )


def test_the_domain_knows_neither_the_web_framework_nor_the_database() -> None:
    foreign = {"flask", "flask_sqlalchemy", "flask_wtf", "flask_httpauth", "werkzeug", "sqlalchemy", "sqlite3"}
    domain = [path for path in SOURCES if top_of(path) == "llmproxy"]

    assert offenders(domain, lambda path: tops(path) & (foreign | {"psycopg", "alembic", "marshmallow"})) == {}


def test_the_pure_rooms_touch_nothing_outside() -> None:
    def impure(path: Path) -> set[str]:
        own = {name for name in imports(path) if (ROOT / (name.replace(".", "/") + ".py")).is_file()}
        return tops(path) & INPUT_AND_OUTPUT | (own - PURE)

    pure = [path for path in SOURCES if module_of(path) in PURE]
    assert len(pure) == len(PURE)
    assert offenders(pure, impure) == {}


def test_what_stands_below_the_blueprints_knows_no_request() -> None:
    of_a_request = {f"flask.{name}" for name in ("request", "g", "session", "current_app")}
    below = [path for path in SOURCES if FLOORS.index(top_of(path)) > FLOORS.index("blueprints")]

    assert offenders(below, lambda path: set(imports(path)) & of_a_request) == {}


def test_blueprints_hold_no_socket() -> None:
    blueprints = [path for path in SOURCES if top_of(path) == "blueprints"]

    assert offenders(blueprints, lambda path: tops(path) & {"socket", "_socket", "ssl", "httptools"}) == {}


def test_config_alone_reads_the_environment() -> None:
    users = {module_of(path): uses for path in SOURCES if (uses := environment_uses(path))}

    assert users == {"config": 1}


def environment_uses(path: Path) -> int:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    by_attribute = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in names
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    return len(by_attribute) + len(set(imports(path)) & {f"os.{name}" for name in names})


def test_the_benchmark_and_locust_see_the_product_from_outside() -> None:
    outside = [*(ROOT / "benchmark").rglob("*.py"), *ROOT.glob("locustfile.py")]
    outside = [path for path in outside if path.stem not in MEASURING]

    assert offenders(outside, lambda path: tops(path) & set(FLOORS)) == {}
