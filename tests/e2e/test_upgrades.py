"""What an upgrade takes away of a library is found at the start, not by the first callers."""

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.servers import DEPLOYED, EMBEDDED, START_S, Server, fetch

# Changes to a library, made before the product loads it, as another version might bring them.
UPGRADES = {
    "parses otherwise": """
from types import SimpleNamespace
from gunicorn.workers import base_async
base_async.http = SimpleNamespace(**vars(base_async.http))
""",
    "writes bodies otherwise": """
from gunicorn import util
from gunicorn.http.wsgi import Response
def write(self, data):
    self.send_headers()
    util.write(self.sock, data, self.chunked)
Response.write = write
""",
    "drops the upstream's date": """
from gunicorn import util
util.is_hoppish = lambda name: name.lower() in ("date", "server")
""",
    "waits otherwise": """
from contextlib import nullcontext
from gunicorn.workers.base_async import AsyncWorker
handle = AsyncWorker.handle
def wait_otherwise(self, *args):
    self.timeout_ctx = nullcontext
    handle(self, *args)
AsyncWorker.handle = wait_otherwise
""",
    "logs otherwise": """
from gunicorn.workers.base_async import AsyncWorker
AsyncWorker.handle_request = lambda self, *args: None
""",
    "reloads otherwise": """
from gunicorn.arbiter import Arbiter
Arbiter.handle_hup = lambda self: None
""",
    "counts otherwise": """
from types import SimpleNamespace
from prometheus_client import metrics, values
metrics.values = SimpleNamespace(ValueClass=values.MutexValue)
""",
    "handles otherwise": """
from gevent.pywsgi import WSGIHandler, WSGIServer
WSGIServer.handle = lambda self, *args: WSGIHandler(*args, self).handle()
""",
    "reads heads otherwise": """
from gunicorn.http import message, parser
class Request(message.Request):
    received = []
parser.Parser.__next__ = lambda self: Request(self.cfg, self.unreader, self.source_addr)
""",
}


@pytest.mark.parametrize(
    ("kind", "upgrade", "library", "lost"),
    [
        (DEPLOYED, "parses otherwise", "gunicorn", "reads requests past `server.gunicorn.request`"),
        (DEPLOYED, "writes bodies otherwise", "gunicorn", "writes responses past `server.gunicorn.response`"),
        (DEPLOYED, "drops the upstream's date", "gunicorn", "writes responses past `server.gunicorn.response`"),
        (DEPLOYED, "waits otherwise", "gunicorn", "serves connections past the times of `server.gunicorn.worker`"),
        (DEPLOYED, "logs otherwise", "gunicorn", "logs accesses past `server.gunicorn.worker`"),
        (DEPLOYED, "reloads otherwise", "gunicorn", "runs its master otherwise (handle_hup: reload)"),
        (DEPLOYED, "counts otherwise", "prometheus_client", "makes its numbers of a class of its own"),
        (EMBEDDED, "counts otherwise", "prometheus_client", "makes its numbers of a class of its own"),
        (EMBEDDED, "handles otherwise", "gevent", "serves connections past `server.pywsgi.handler`"),
        (EMBEDDED, "reads heads otherwise", "gunicorn", "reads requests past `server.gunicorn.request`"),
        (EMBEDDED, "writes bodies otherwise", "gunicorn", "writes responses past `server.gunicorn.response`"),
    ],
)
def test_a_start_without_an_override_is_refused_with_one_line(
    kind: str, upgrade: str, library: str, lost: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"from gevent import monkey\nmonkey.patch_all()\n{UPGRADES[upgrade]}")

    server = Server(kind, tmp_path / "data", PYTHONPATH=str(tmp_path))
    server.start()
    try:
        status = server.wait(START_S)
    finally:
        server.kill()
    said = [text for text in server.output().splitlines() if text.startswith("not starting: ")]
    line = f"not starting: {library} {version(library)} {lost}. Install the versions in requirements.txt"
    assert (status, said) == (3, [line])
    assert "Traceback" not in server.output()


def test_settings_of_gunicorns_own_are_not_taken_for_an_upgrade(tmp_path: Path) -> None:
    arguments = ("--keep-alive", "0", "--header-map", "refuse", "--access-logfile", "-")

    with Server(DEPLOYED, tmp_path / "data", arguments=arguments) as server:
        assert fetch(server.url, "GET", "/healthz")[0] == 200
        assert "GET /1" not in server.output()
