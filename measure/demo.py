"""
A proxy to look at: a month of made-up traffic in it, the stand-in for OpenAI's API behind it, no key needed.

    python -m measure.demo

Everything is in a folder of its own, which is removed at the end. Nothing of the environment is read, so that no
setting of another proxy is used.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import config
from app import create_app
from control import projects, tokens
from control.audit import Actor
from database.schema import migrate_to_head
from llmproxy.admission import utc_now
from measure.admin_seed import seed
from models import db
from services import Services

_ROOT = Path(__file__).resolve().parents[1]
_URL = re.compile(r"https?://[^\s/]+")
_STOP_S = 20
_ENDING = (signal.SIGINT, signal.SIGTERM)
_ABOUT = """
llm-proxy serves {url}/v1, with a stand-in for OpenAI's API behind it.

Look at the admin pages: {url}/admin/   user: {user}   password: {password}

The management API is described at {url}/manage/openapi.json   token: {management}

Call it with a token, in another terminal:

curl -sS {url}/v1/chat/completions -H "Authorization: Bearer {secret}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'

Ctrl+C ends it and removes all of it. `make run` starts one to keep.
"""


def main() -> None:
    """Fill a proxy and serve it until SIGINT or SIGTERM."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    options.add_argument("--records", type=int, default=9000)
    options.add_argument("--tokens", type=int, default=300)
    chosen = options.parse_args()
    if _is_taken(chosen.port):
        sys.exit(f"Port {chosen.port} is taken by another process: choose one with --port, where 0 takes a free one.")
    # What is filled is the owner's alone, as what a server makes is.
    os.umask(0o077)
    for number in _ENDING:
        signal.signal(number, _end)
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="llm-proxy-demo-") as data_dir,
        _serving(["-m", "mock_openai"], {}) as (_, upstream_url),
    ):
        environ = {
            "DATA_DIR": data_dir,
            "UPSTREAM_URL": upstream_url,
            "ADMIN_PASSWORD": secrets.token_urlsafe(12),
            "MANAGEMENT_TOKEN": secrets.token_urlsafe(24),
            "PORT": str(chosen.port),
            # No balancer looks at it, and nobody minds a stream that is cut.
            "DRAIN_OVERLAP": "0",
            "DRAIN_TIMEOUT": "5",
        }
        secret = _fill(config.load(environ, embedded=True), chosen.records, chosen.tokens)
        with _serving(["wsgi.py"], environ) as (proxy, url):
            shown = {
                "user": "admin",
                "password": environ["ADMIN_PASSWORD"],
                "management": environ["MANAGEMENT_TOKEN"],
                "secret": secret,
            }
            print(_ABOUT.format(url=url, **shown), flush=True)
            proxy.wait()


def _is_taken(port: int) -> bool:
    # Before the month of traffic is made up, not after it.
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _end(_number: int, _frame: object) -> None:
    # Set by hand: a shell that starts it in the background has it ignore Ctrl+C, and Python leaves that as it is.
    # Asked again it goes on ending. The servers hear a second Ctrl+C, too, and hurry.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _fill(settings: config.Settings, records: int, tokens_count: int) -> str:
    """Make up its past; the secret of a token to call with."""
    app = create_app(settings)
    migrate_to_head(Services.of(app).engine, settings.data_dir)
    seed(app, tokens=tokens_count, records=records, now=utc_now())
    with app.app_context():
        actor, keyring = Actor("demo"), Services.of(app).keyring
        project = projects.create(db.session, keyring, actor, name="Demo", openai_api_key="sk-of-the-stand-in")
        lifetime = timedelta(days=1)
        secret, _ = tokens.issue(db.session, actor, project_id=project.id, lifetime=lifetime, label="demo")
        db.engine.dispose()
    Services.of(app).close()
    return secret


@contextmanager
def _serving(command: list[str], environ: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of ours, and the address that its first line names; it is stopped at the end."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=_ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = _URL.search(process.stdout.readline())
        if found is None:
            sys.exit(f"{command[-1]} did not start: what it says stands above. --port names another port.")
        yield process, found[0]
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
