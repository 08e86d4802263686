"""A node that got another encryption key than the others: it must not take their place."""

import base64
import json
import signal

import pytest

from tests.databases import database_of, execute
from tests.servers import DEPLOYED, Server, fetch, on_both_servers, wait_for

RIGHT, OTHER = (base64.b64encode(letter * 32).decode() for letter in (b"r", b"o"))


def readiness(server: Server):
    status, _, body = fetch(server.url, "GET", "/readyz")
    return status, json.loads(body)


@pytest.fixture
def data_dir(server_kind, tmp_path):
    """Of a node that has a project."""
    with Server(server_kind, tmp_path / "data", ENCRYPTION_KEY=RIGHT) as server:
        server.create_project()
        assert readiness(server) == (200, {"status": "ready"})
    return tmp_path / "data"


@on_both_servers
def test_a_node_that_opens_no_stored_key_is_not_ready_and_says_so_in_one_line(server_kind, data_dir):
    with Server(server_kind, data_dir, ENCRYPTION_KEY=OTHER, WEB_CONCURRENCY="3") as server:
        line = "ENCRYPTION_KEY opens none of the 1 stored upstream keys"
        wait_for(lambda: line in server.output(), otherwise=server.output)
        assert readiness(server)[0] == 503
        assert fetch(server.url, "GET", "/healthz")[0] == 200
        assert len(server.worker_pids()) in (1, 3)
    assert server.output().count(line) == 1


def test_a_node_that_opens_some_of_them_serves_and_says_so(server_kind, data_dir):
    with Server(server_kind, data_dir, ENCRYPTION_KEY=OTHER) as server:
        server.create_project()
        wait_for(lambda: "ENCRYPTION_KEY opens" in server.output())
        assert readiness(server) == (200, {"status": "degraded", "unreadable_keys": 1})
    with Server(server_kind, data_dir, ENCRYPTION_KEY=f"{OTHER},{RIGHT}") as server:
        assert readiness(server) == (200, {"status": "ready"})
        wait_for(lambda: "1 are sealed under an older encryption key: run `flask keys rotate`" in server.output())


def test_a_reload_with_another_key_says_so_again(tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text(RIGHT)
    settings = {"ENCRYPTION_KEY": None, "ENCRYPTION_KEY_FILE": str(key_file), "WEB_CONCURRENCY": "2"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        server.create_project()
        key_file.write_text(OTHER)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "ENCRYPTION_KEY opens none of the 1" in server.output(), otherwise=server.output)
        wait_for(lambda: readiness(server)[0] == 503)


def test_a_project_that_sends_keys_outside_in_the_clear_is_warned_about(server_kind, data_dir):
    url = database_of(data_dir, empty=True)
    execute(url, "UPDATE projects SET base_url = 'http://8.8.8.8/v1', name = 'in the clear'")
    with Server(server_kind, data_dir, ENCRYPTION_KEY=RIGHT) as server:
        wait_for(lambda: "the base_url of project 'in the clear' is not encrypted" in server.output())
