"""What tests of the running product share: a mock upstream, and the proxy on both of its servers."""

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from database.engine import open_engine
from mock_openai.mock import MockOpenAI
from tests import databases
from tests.postgres import PostgresServer, end_shared_postgres, shared_postgres
from tests.recorder import RecordingUpstream
from tests.servers import DEPLOYED, EMBEDDED, LOOP, RELAYS, Server, Token, choose_relay, wait_for

# Of property tests: no verdict by the clock of a busy machine, and the same examples on each; others are tried with
# `--hypothesis-profile=search`.
settings.register_profile("search", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    kinds = [databases.SQLITE, databases.POSTGRESQL]
    parser.addoption("--database", choices=kinds, default=databases.SQLITE, help="what the tests' databases run on")
    parser.addoption(
        "--relay", choices=RELAYS, default=LOOP, help="who passes plain streams on in the tests' servers"
    )


def pytest_configure(config: pytest.Config) -> None:
    databases.choose(config.getoption("--database"))
    choose_relay(config.getoption("--relay"))


def pytest_unconfigure() -> None:
    end_shared_postgres()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on the servers that its mark names, and on the deployed one where it has none."""
    if "server_kind" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("servers")
        metafunc.parametrize("server_kind", mark.args if mark else [DEPLOYED], indirect=True, scope="session")


def is_of_sqlite(item: pytest.Item) -> bool:
    """Whether it is about SQLite, or on the first run's server, which has that alone."""
    callspec = getattr(item, "callspec", None)
    is_embedded = callspec is not None and callspec.params.get("server_kind") == EMBEDDED
    return is_embedded or item.get_closest_marker("sqlite") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is of SQLite from a run on PostgreSQL."""
    if config.getoption("--database") == databases.POSTGRESQL:
        left_out = [item for item in items if is_of_sqlite(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup() -> None:
    """Let no test begin where an hour or a day (UTC), and with it a budget's period, would end while it runs."""
    to_the_hour_s = 3600 - time.time() % 3600
    is_before_midnight = time.gmtime().tm_hour == 23
    if to_the_hour_s < (60 if is_before_midnight else 15):
        time.sleep(to_the_hour_s + 0.1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Function) -> Iterator[None]:
    """Drop a test's databases when all that used them has ended."""
    yield
    if "tmp_path" in item.funcargs:
        databases.drop_below(item.funcargs["tmp_path"])


@pytest.fixture
def postgres_server() -> PostgresServer:
    """A running PostgreSQL, whatever the run has chosen."""
    return shared_postgres()


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The URL of a migrated database."""
    return databases.database_of(tmp_path)


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """That database."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(database: Engine) -> Iterator[Session]:
    """Where rows of that database are read and changed, as an application's is."""
    with Session(database, expire_on_commit=False) as session:
        yield session


@pytest.fixture(scope="session")
def running_upstream() -> Iterator[MockOpenAI]:
    with MockOpenAI() as mock:
        yield mock


@pytest.fixture
def upstream(running_upstream: MockOpenAI) -> MockOpenAI:
    """A mock of OpenAI that has seen no request yet."""
    running_upstream.reset()
    return running_upstream


@pytest.fixture
def mock(upstream: MockOpenAI) -> MockOpenAI:
    """The same, where it is what is tested or measured."""
    return upstream


@pytest.fixture
def lonely_mock() -> Iterator[MockOpenAI]:
    """A mock of its own: proxies of other tests keep connections to the shared one, and may yet call it."""
    with MockOpenAI() as mock:
        yield mock


def serve(kind: str, upstream: MockOpenAI, paths: pytest.TempPathFactory, **settings: str) -> Iterator[Server]:
    """A server in front of `upstream`. When it ends, it must have left everything in order."""
    with Server(kind, paths.mktemp(kind) / "data", UPSTREAM_URL=upstream.url, **settings) as server:
        yield server
        assert server.leaks() == []
        ids = Counter(record["request_id"] for record in server.records())
        assert [request_id for request_id, count in ids.items() if count > 1] == []
        assert "Traceback" not in server.output()
        wait_for(lambda: "llmproxy_requests_in_flight 0.0" in server.metrics())
    assert server.wait() == 0


@pytest.fixture(scope="session")
def server_kind(request) -> str:
    """DEPLOYED, and EMBEDDED for a test that is marked with `servers(DEPLOYED, EMBEDDED)`."""
    return request.param


@pytest.fixture(scope="session")
def proxy(server_kind, running_upstream, tmp_path_factory) -> Iterator[Server]:
    """The proxy in front of `upstream`."""
    yield from serve(server_kind, running_upstream, tmp_path_factory)


@pytest.fixture(scope="session")
def impatient_proxy(server_kind, running_upstream, tmp_path_factory) -> Iterator[Server]:
    """The same with short timeouts and a small limit for bodies."""
    settings = {"CONNECT_TIMEOUT": "2", "FIRST_BYTE_TIMEOUT": "2", "IDLE_TIMEOUT": "1.5", "MAX_BODY_BYTES": "1000000"}
    yield from serve(server_kind, running_upstream, tmp_path_factory, **settings)


@pytest.fixture
def token(proxy: Server) -> Token:
    """A token of a project of its own."""
    return proxy.issue_token()


@pytest.fixture(scope="session")
def running_recorder() -> Iterator[RecordingUpstream]:
    with RecordingUpstream() as upstream:
        yield upstream


@pytest.fixture
def recorder(running_recorder: RecordingUpstream) -> RecordingUpstream:
    """An upstream that answers with the bytes it is given, and has seen no request yet."""
    running_recorder.forget()
    return running_recorder


@pytest.fixture
def token_for(proxy: Server) -> Callable[[str], Token]:
    """Issues tokens of projects with another upstream."""

    def issue(base_url: str) -> Token:
        return proxy.issue_token(proxy.create_project(base_url=base_url))

    return issue


@pytest.fixture
def deaf_port():
    """A port whose listener accepts nothing, and whose backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
