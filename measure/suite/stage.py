"""The servers of the benchmark, each a process of its own on a free port of 127.0.0.1, ended by its pid."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mock_openai.mock import MockOpenAI

ROOT = Path(__file__).parent.parent.parent
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# How long the token lives that the load uses: a soak may last days.
LONGEST_RUN_HOURS = 168
CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
ANSWER = json.dumps(
    {
        "id": "chatcmpl-2c8329de90c19c39ed5127b7",
        "object": "chat.completion",
        "created": 1767225600,
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello! How can I help you today?", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 12,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
    }
)
BARE_APP = f"""
from gevent import monkey; monkey.patch_all()
from flask import Flask, Response
app = Flask(__name__)
ANSWER = {ANSWER!r}
@app.post({CHAT!r})
def view():
    return Response(ANSWER, content_type="application/json")
"""
NGINX_CONF = """
worker_processes 1; daemon off; pid %(work)s/nginx.pid;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 100000000; client_body_temp_path %(work)s;
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        add_header x-request-id req_0123456789abcdef; add_header openai-processing-ms 12;
        add_header openai-organization org; add_header openai-version 2020-10-01;
        add_header x-ratelimit-limit-requests 10000; add_header x-ratelimit-remaining-requests 9999;
        location / { default_type application/json; return 200 '%(answer)s'; }
    }
}
"""


@dataclass(frozen=True)
class Server:
    """
    A running server.

    Attributes:
        pids: The processes that answer.
        bearer: A token that it takes.
        master: The process that started them, where there is one.
    """

    port: int
    pids: tuple[int, ...] = ()
    bearer: str = "x"
    master: int | None = None

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """User and system time of the processes that answer, so far."""
        return sum(_cpu_s(pid) for pid in self.pids)

    def memory_mb(self) -> float:
        """Resident memory of the largest process that answers, in MB of a million bytes."""
        return max(_resident_bytes(pid) for pid in self.pids) / 1e6

    def share_mb(self) -> float:
        """Its share in that of the largest one: a page that several processes have is divided among them (PSS)."""
        return max(_share_bytes(pid) for pid in self.pids) / 1e6

    def whole_mb(self) -> float:
        """Memory of all its processes together, what they have in common counted once."""
        return sum(_share_bytes(pid) for pid in (*self.pids, *([self.master] if self.master else []))) / 1e6

    def run_on(self, processors: set[int]) -> None:
        """Keep the processes to these processors."""
        for pid in self.pids:
            os.sched_setaffinity(pid, processors)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _share_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024


@contextmanager
def json_upstream(work: Path) -> Iterator[Server]:
    """nginx with a fixed answer where it is installed, because that disturbs least; else the stand-in for OpenAI."""
    if not shutil.which("nginx"):
        with MockOpenAI() as mock:
            yield Server(int(mock.url.rsplit(":", 1)[1]), (mock.pid,))
        return
    port = free_port()
    config = work / "nginx.conf"
    config.write_text(NGINX_CONF % {"work": work, "port": port, "answer": ANSWER})
    with started(["nginx", "-c", str(config), "-e", str(work / "nginx.err")], port):
        yield Server(port)


@contextmanager
def paced_upstream() -> Iterator[Server]:
    """An upstream that streams events at a pace; see `paced_upstream`."""
    port = free_port()
    with started([sys.executable, "-m", "measure.suite.paced_upstream", str(port)], port) as process:
        yield Server(port, (process.pid,))


@contextmanager
def bare_flask(work: Path) -> Iterator[Server]:
    """A Flask view that does nothing but answer the same JSON, under one gevent worker of gunicorn."""
    (work / "bare_app.py").write_text(BARE_APP)
    port = free_port()
    options = ["-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", "--keep-alive", "15", "bare_app:app"]
    with _gunicorn([*options, "--no-control-socket"], port, cwd=work) as (_, pids):
        yield Server(port, pids)


@contextmanager
def proxy(upstream: Server, data_dir: Path, *, workers: int = 1) -> Iterator[Server]:
    """The proxy as it is deployed; with 0 workers as `python wsgi.py`. Its database is kept in `data_dir`."""
    port, secret = free_port(), secrets.token_urlsafe(24)
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA_DIR": str(data_dir),
        "UPSTREAM_URL": upstream.url,
        "MANAGEMENT_TOKEN": secret,
        "ADMIN_USER": "admin",
        "ADMIN_PASSWORD": secret,
        "ENCRYPTION_KEY": base64.b64encode(b"benchmark" * 4)[:43].decode() + "=",
        "WEB_CONCURRENCY": str(workers or 1),
        "RATE_LIMIT_PER_HOUR": "1000000000",
    }
    if workers:
        with _gunicorn(["-c", "gunicorn.conf.py", "wsgi:app"], port, cwd=ROOT, settings=settings) as (master, pids):
            yield Server(port, pids, _issue_token(port, secret), master)
    else:
        with started([sys.executable, "wsgi.py"], port, cwd=ROOT, settings=settings) as process:
            yield Server(port, (process.pid,), _issue_token(port, secret))


@contextmanager
def _gunicorn(
    options: list[str], port: int, *, cwd: Path, settings: dict[str, str] | None = None
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The master's process and those of its workers."""
    with started([sys.executable, "-m", "gunicorn", *options], port, cwd=cwd, settings=settings) as master:
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
        yield master.pid, tuple(int(pid) for pid in children)


@contextmanager
def started(
    command: list[str], port: int, *, cwd: Path = ROOT, settings: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers on `port` by now."""
    env = {**os.environ, **(settings or {})}  # noqa: TID251
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=quiet, stderr=quiet) as process:
        try:
            _wait_for(port, process)
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            call(port, "GET", "/healthz", "x")
            return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} did not start")


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def call(port: int, method: str, path: str, bearer: str, body: Any = None) -> tuple[int, bytes]:
    """Status and body of one answer, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as exc:
        raise ConnectionError(str(exc)) from exc
    finally:
        connection.close()


def _issue_token(port: int, management_token: str) -> str:
    project = {"name": secrets.token_hex(8), "openai_api_key": "sk-benchmark-0123456789"}
    made = _made(call(port, "POST", "/manage/projects", management_token, project))
    wanted = {"project_id": made["id"], "duration_hours": LONGEST_RUN_HOURS}
    token: str = _made(call(port, "POST", "/manage/tokens", management_token, wanted))["token"]
    return token


def _made(answer: tuple[int, bytes]) -> Any:
    if answer[0] != 201:
        raise RuntimeError(f"the proxy answered {answer[0]}: {answer[1][:200]!r}")
    return json.loads(answer[1])
