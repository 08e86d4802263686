"""The servers that are measured: the proxy as it is deployed, and a Flask view that does nothing."""

from __future__ import annotations

import base64
import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure.suite.sample import CHAT, RESPONSE, UPSTREAM_KEY
from measure.suite.server import ROOT, Server, call, children, free_port, started

# How long the token lives that the load uses: a soak may last days.
LONGEST_RUN_HOURS = 168
BARE_APP = f"""
from gevent import monkey; monkey.patch_all()
from flask import Flask, Response
app = Flask(__name__)
RESPONSE = {RESPONSE!r}
@app.post({CHAT!r})
def view():
    return Response(RESPONSE, content_type="application/json")
"""
# A developer's tool brings it, and requests loads it where it is: 3 MB that no server has as it is deployed.
NOT_DEPLOYED = "chardet"


@contextmanager
def bare_flask(work: Path) -> Iterator[Server]:
    """A Flask view that does nothing but answer with the same JSON, under one gevent worker of gunicorn."""
    (work / "bare_app.py").write_text(BARE_APP)
    server = Server(free_port())
    options = ["-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{server.port}", "--keep-alive", "15", "bare_app:app"]
    command = [sys.executable, "-m", "gunicorn", *options, "--no-control-socket"]
    with started(command, server, cwd=work) as master:
        yield replace(server, pids=children(master.pid), master=master.pid)


@contextmanager
def proxy(
    upstream: Server,
    data_dir: Path,
    *,
    workers: int = 1,
    checkout: Path = ROOT,
    stream_usage: str = "as-sent",
    limits: Mapping[str, Any] | None = None,
    database_url: str = "",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """
    The proxy with a token that it takes; with 0 workers as `python wsgi.py`.

    Args:
        data_dir: Where its database is kept, if it has no other one.
        checkout: Whose code is run, by its own .venv where it has one.
        stream_usage: The setting of the token's project.
        limits: The token's rules and meters, as the management API takes them.
        database_url: Another database than SQLite.
        settings: More of the proxy's settings.
    """
    secret = secrets.token_urlsafe(24)
    more = {**(settings or {}), **({"DATABASE_URL": database_url} if database_url else {})}
    with proxy_that_answers(
        upstream, data_dir, secret, workers=workers, checkout=checkout, more_settings=more
    ) as server:
        yield replace(server, bearer=_issue_token(replace(server, bearer=secret), stream_usage, limits or {}))


@contextmanager
def proxy_that_answers(
    upstream: Server,
    data_dir: Path,
    secret: str,
    *,
    workers: int,
    checkout: Path = ROOT,
    more_settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The proxy as soon as it answers; `secret` opens its management API."""
    server = Server(free_port())
    settings = {
        "PYTHONPATH": str(_hiding_what_is_not_deployed(data_dir)),
        "HOST": "127.0.0.1",
        "PORT": str(server.port),
        "DATA_DIR": str(data_dir),
        "UPSTREAM_URL": upstream.url,
        "MANAGEMENT_TOKEN": secret,
        "ADMIN_USER": "admin",
        "ADMIN_PASSWORD": secret,
        "ENCRYPTION_KEY": base64.b64encode(b"benchmark" * 4)[:43].decode() + "=",
        "WEB_CONCURRENCY": str(workers or 1),
        "RATE_LIMIT_PER_HOUR": "1000000000",
    }
    settings |= more_settings or {}
    if upstream.authority:
        settings["SSL_CERT_FILE"] = str(upstream.authority)
    own = checkout / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    deployed = ["-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
    command = [python, *(deployed if workers else ["wsgi.py"])]
    with started(command, server, cwd=checkout, settings=settings) as process:
        if workers:
            yield replace(server, pids=children(process.pid), master=process.pid)
        else:
            yield replace(server, pids=(process.pid,))


def _hiding_what_is_not_deployed(data_dir: Path) -> Path:
    """A directory to import from before others."""
    hiding = data_dir / "not-deployed"
    hiding.mkdir(parents=True, exist_ok=True)
    (hiding / f"{NOT_DEPLOYED}.py").write_text("raise ImportError\n")
    return hiding


def _issue_token(server: Server, stream_usage: str, limits: Mapping[str, Any]) -> str:
    project = {"name": secrets.token_hex(8), "openai_api_key": UPSTREAM_KEY, "stream_usage": stream_usage}
    made = _made(call(server, "POST", "/manage/projects", project))
    wanted = {"project_id": made["id"], "duration_hours": LONGEST_RUN_HOURS, **limits}
    token: str = _made(call(server, "POST", "/manage/tokens", wanted))["token"]
    return token


def _made(response: tuple[int, bytes]) -> Any:
    if response[0] != 201:
        raise RuntimeError(f"the proxy answered {response[0]}: {response[1][:200]!r}")
    return json.loads(response[1])
