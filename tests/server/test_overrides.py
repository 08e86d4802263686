"""What is lost of a library ends the start, in words that say what to do."""

from importlib.metadata import version
from typing import Any

import psycopg
import pytest
from wsproto.extensions import PerMessageDeflate

from server import overrides

POSTGRES = "postgresql://localhost/llmproxy"


def set_more(response: Any) -> None:
    response._more = None


def test_nothing_is_lost_of_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    overrides.require(POSTGRES, gunicorn=lambda: None)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("library", "part", "otherwise", "lost"),
    [
        ("gevent", "llmproxy.sockets.real", lambda sock: sock, "keeps the real socket elsewhere"),
        ("prometheus_client", "llmproxy.telemetry.shared_values._unshared", [], "makes its numbers"),
        ("psycopg", "psycopg.Cursor.execute", lambda *_: None, "waits for the server elsewhere"),
        ("psycopg", "psycopg.Connection.wait", lambda _connection, _generator: None, "takes no limit"),
        ("requests", "requests.Response.__init__", set_more, "sets more in a response"),
        (
            "requests",
            "requests.structures.CaseInsensitiveDict.__iter__",
            lambda _: iter(()),
            "keeps headers elsewhere",
        ),
        (
            "wsproto",
            "llmproxy.websocket.usage._Deflate",
            PerMessageDeflate,
            "fails where it is used beyond its promises",
        ),
    ],
)
def test_what_is_lost_of_a_library_ends_the_start_with_one_line(
    library: str,
    part: str,
    otherwise: Any,
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(part, otherwise)

    with pytest.raises(SystemExit, match=r"^3$"):
        overrides.require(POSTGRES)
    said = capsys.readouterr().err
    assert said.startswith(f"not starting: {library} {version(library)} {lost}")
    assert said.endswith("Install the versions in requirements.txt\n") and said.count("\n") == 1


def test_a_library_that_is_not_used_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.Cursor, "execute", lambda *_: None)

    overrides.require("sqlite:////tmp/proxy.db")
