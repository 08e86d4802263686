"""What the proxy leaves on the disk is its owner's, whatever the umask of whoever starts it."""

import os
import stat
from contextlib import suppress

import pytest

from tests.http_by_hand import call
from tests.servers import Server, on_both_servers, wait_for


@pytest.fixture
def open_umask():
    """What a careless service manager starts processes with."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(server: Server) -> dict[str, int]:
    found = {}
    for path in server.data_dir.rglob("*"):
        with suppress(FileNotFoundError):  # a position is saved beside its place, and moved there
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                found[str(path.relative_to(server.data_dir))] = stat.S_IMODE(mode)
    return found


@on_both_servers
def test_every_file_is_for_its_owner_alone(server_kind, upstream, tmp_path, open_umask):
    with Server(server_kind, tmp_path / "data", empty=True, UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
        call(server.url, "GET", "/v1/models", token.bearer)
        server.wait_for_records(1, token)
        found = modes(server)

    assert {"api_logs.jsonl"} < set(found)
    assert {name: mode for name, mode in found.items() if mode != 0o600} == {}
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
    assert "is open to others" not in server.output()


@on_both_servers
def test_the_call_log_alone_may_be_opened_to_a_collector(server_kind, upstream, tmp_path, open_umask):
    settings = {"UPSTREAM_URL": upstream.url, "LOG_FILE_MODE": "0640", "LOG_MAX_FILE_BYTES": "4096"}
    with Server(server_kind, tmp_path / "data", empty=True, **settings) as server:
        token = server.issue_token()
        for _ in range(40):
            call(server.url, "GET", "/v1/models", token.bearer)
        wait_for(lambda: len(list(server.data_dir.glob("api_logs*.jsonl"))) > 1)
        found = modes(server)

    logs = {mode for name, mode in found.items() if name.endswith(".jsonl")}
    assert logs == {0o640}
    assert {mode for name, mode in found.items() if not name.endswith(".jsonl")} == {0o600}


@on_both_servers
def test_what_somebody_else_made_keeps_its_mode_and_is_warned_about(server_kind, upstream, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    database = tmp_path / "elsewhere.db"
    database.touch()
    database.chmod(0o644)
    settings = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": f"sqlite:///{database}"}
    with Server(server_kind, tmp_path / "data", empty=True, **settings) as server:
        assert server.output().count("is open to others (mode 755): chmod 700 it") == 1
        warning = f"the database {database} is open to others (mode 644): chmod 600 {database}*"
        assert server.output().count(warning) == 1

    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o755
    assert stat.S_IMODE(database.stat().st_mode) == 0o644
