"""One project's name server is dead: that project's calls fail, and nobody else notices."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.http_by_hand import call
from tests.servers import DEPLOYED, Server, wait_for

# Look-ups of these names ask a file of the name, which holds where it leads. Without one nobody answers.
NAME_SERVER = """
import _socket, os, time
sleep, real = time.sleep, _socket.getaddrinfo
from gevent import monkey
monkey.patch_all()
here = os.path.dirname(__file__)
def getaddrinfo(host, port, *more):
    name = host.decode() if isinstance(host, bytes) else host
    if not name or not name.endswith((".internal", ".test")) or (more and more[-1] == _socket.AI_NUMERICHOST):
        return real(host, port, *more)
    file = os.path.join(here, name)
    with open(file + ".asked", "a") as asked:
        asked.write("?")
    while not os.path.exists(file):
        sleep(0.05)
    return real(open(file).read(), port, *more)
_socket.getaddrinfo = getaddrinfo
"""


class NameServer:
    """What of `NAME_SERVER` the tests' own processes decide, and see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "sitecustomize.py").write_text(NAME_SERVER)

    def answer(self, name: str, address: str = "127.0.0.1") -> None:
        """From here on it leads there, by default to the upstream of the tests."""
        (self.directory / name).write_text(address)

    def asked(self, name: str) -> int:
        """How many look-ups there were of it."""
        file = self.directory / f"{name}.asked"
        return len(file.read_text()) if file.exists() else 0


@pytest.fixture
def names(tmp_path: Path) -> NameServer:
    (tmp_path / "names").mkdir()
    return NameServer(tmp_path / "names")


@pytest.fixture
def server(upstream, names, tmp_path) -> Iterator[Server]:
    settings = {"UPSTREAM_URL": upstream.url, "PYTHONPATH": str(names.directory), "CONNECT_TIMEOUT": "3"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        yield server


def token_of(server: Server, upstream, host: str):
    port = upstream.url.rpartition(":")[2]
    return server.issue_token(server.create_project(base_url=f"http://{host}:{port}"))


def test_calls_to_a_name_that_nobody_answers_for_stop_no_other_projects(server, upstream, names):
    names.answer("live.internal")
    dead, live = token_of(server, upstream, "dead.internal"), token_of(server, upstream, "live.internal")
    with ThreadPoolExecutor(12) as pool:
        failing = [pool.submit(call, server.url, "GET", "/v1/models", dead.bearer) for _ in range(12)]
        wait_for(lambda: names.asked("dead.internal"))
        served = [call(server.url, "GET", "/v1/models", live.bearer).status for _ in range(3)]
        assert not any(answer.done() for answer in failing)
        # Nor is the disk waited for by the same threads, which look for the name whoever waits for it.
        wait_for(lambda: server.manage("GET", "/usage")[1]["total"]["requests"] >= 3, otherwise=server.output)

        assert served == [200, 200, 200]
        assert {answer.result().status for answer in failing} == {504}
        assert names.asked("dead.internal") <= 2


def test_many_names_that_nobody_answers_for_hold_up_no_name_that_is_known(server, upstream, names):
    names.answer("live.internal")
    live = token_of(server, upstream, "live.internal")
    dead = [token_of(server, upstream, f"dead-{number}.internal") for number in range(40)]
    assert call(server.url, "GET", "/v1/models", live.bearer).status == 200
    with ThreadPoolExecutor(40) as pool:
        failing = [pool.submit(call, server.url, "GET", "/v1/models", token.bearer) for token in dead]
        wait_for(lambda: sum(names.asked(f"dead-{number}.internal") for number in range(40)) >= 30)
        # Several at once, so that they need connections of their own.
        served = [pool.submit(call, server.url, "GET", "/v1/models", live.bearer) for _ in range(8)]

        assert {answer.result().status for answer in served} == {200}
        assert {answer.result().status for answer in failing} == {504}


def test_a_name_that_is_answered_for_again_is_called_again(server, upstream, names):
    token = token_of(server, upstream, "back.internal")
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 504
    names.answer("back.internal")

    wait_for(lambda: call(server.url, "GET", "/v1/models", token.bearer).status == 200)


def test_an_upstream_that_moved_is_found_by_the_next_call(server, upstream, names):
    names.answer("moved.internal", "127.0.0.2")
    token = token_of(server, upstream, "moved.internal")
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 502
    names.answer("moved.internal")

    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200


def test_an_operator_does_not_wait_for_a_name_server_for_long(server, names):
    body = {"name": "x", "openai_api_key": "sk-x", "base_url": "http://dead.test"}
    status, answer = server.manage("POST", "/projects", body)

    assert (status, answer["error"]["param"]) == (400, "base_url")
    assert "nobody can tell" in answer["error"]["message"] and names.asked("dead.test")


def test_a_stop_does_not_wait_for_a_name_server(server, upstream, names):
    token = token_of(server, upstream, "dead.internal")
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 504
    server.terminate()

    assert server.wait(10) == 0


def test_an_upstream_that_is_a_literal_address_needs_no_look_up(server, upstream, names):
    host, _, port = upstream.url.removeprefix("http://").rpartition(":")
    socket.inet_aton(host)
    token = server.issue_token(server.create_project(base_url=f"http://{host}:{port}"))

    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
    assert names.asked(host) == 0
