"""
What a proxied JSON call costs beside a bare Flask view, in CPU time of one gunicorn worker.

    python -m benchmark.overhead [--requests 8000] [--concurrency 32] [--rounds 5]

Three servers run on this machine: a Flask view that returns the same JSON, under the same gunicorn settings; the
proxy with everything on (claim, record, usage sums); and an upstream behind it: nginx with a fixed answer where it
is installed, because that disturbs least, otherwise the stand-in for OpenAI. The load goes to the first two in
turn, and the ratio of each pair of rounds is what is reported: it carries over to other machines, absolute times
do not. Where there are two processors, the server that is measured has one to itself, as the load and the upstream
would throw its code out of the caches between any two requests. Load is bounded, loopback only, and ends by itself.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark import plain_load
from benchmark.mock_openai import MockOpenAI

ROOT = Path(__file__).parent.parent
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}).encode()
BARE_APP = """
from gevent import monkey; monkey.patch_all()
from flask import Flask, Response
app = Flask(__name__)
ANSWER = {answer!r}
@app.post("/v1/chat/completions")
def view():
    return Response(ANSWER, content_type="application/json")
"""

NGINX_ANSWER = json.dumps(
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
NGINX_CONF = """
worker_processes 1; daemon off; pid %(work)s/nginx.pid;
events { worker_connections 1024; }
http {
    access_log off; keepalive_requests 100000000; client_body_temp_path %(work)s;
    server {
        listen 127.0.0.1:%(port)d;
        add_header x-request-id req_0123456789abcdef; add_header openai-processing-ms 12;
        add_header openai-organization org; add_header openai-version 2020-10-01;
        add_header x-ratelimit-limit-requests 10000; add_header x-ratelimit-remaining-requests 9999;
        location / { default_type application/json; return 200 '%(answer)s'; }
    }
}
"""


@dataclass(frozen=True)
class Round:
    """One round against one server: CPU of its worker, and how fast it went."""

    cpu_us: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Run the rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=8000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--upstream", choices=["auto", "nginx", "stand-in"], default="auto")
    args = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[1:] or processors)
    with tempfile.TemporaryDirectory() as work, upstream(Path(work), args.upstream) as url:
        answer = _ask(url, "sk-benchmark")
        with bare_flask(answer, Path(work)) as bare, proxy(url, Path(work)) as proxied:
            token = _issue_token(proxied.url, proxied.management_token)
            _load(bare, "x", 500, args.concurrency)
            _load(proxied, token, 500, args.concurrency)
            pairs = [
                (
                    _load(bare, "x", args.requests, args.concurrency),
                    _load(proxied, token, args.requests, args.concurrency),
                )
                for _ in range(args.rounds)
            ]
    _report(pairs)


def _report(pairs: list[tuple[Round, Round]]) -> None:
    for name, side in (("bare Flask view", 0), ("llm-proxy, all on", 1)):
        rounds = [pair[side] for pair in pairs]
        print(
            f"{name:18}  CPU {statistics.median(r.cpu_us for r in rounds):6.0f} us/request"
            f"  {statistics.median(r.requests_per_s for r in rounds):6.0f} requests/s"
            f"  p50 {statistics.median(r.p50_ms for r in rounds):5.1f} ms"
            f"  p99 {statistics.median(r.p99_ms for r in rounds):5.1f} ms"
        )
    ratios = sorted(proxied.cpu_us / bare.cpu_us for bare, proxied in pairs)
    print(f"CPU ratio           {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


@dataclass(frozen=True)
class Server:
    """A gunicorn with one worker."""

    url: str
    worker_pid: int
    management_token: str = ""

    def cpu_s(self) -> float:
        """User and system time of the worker so far."""
        fields = Path(f"/proc/{self.worker_pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextmanager
def upstream(work: Path, kind: str) -> Iterator[str]:
    """The URL of an upstream with a small JSON answer."""
    if kind == "stand-in" or (kind == "auto" and not shutil.which("nginx")):
        print("upstream: the stand-in for OpenAI")
        with MockOpenAI() as mock:
            yield mock.url
        return
    print("upstream: nginx")
    port = _free_port()
    config = work / "nginx.conf"
    config.write_text(NGINX_CONF % {"work": work, "port": port, "answer": NGINX_ANSWER})
    with subprocess.Popen(["nginx", "-c", str(config), "-e", str(work / "nginx.err")]) as server:
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@contextmanager
def bare_flask(answer: bytes, work: Path) -> Iterator[Server]:
    """A Flask view that does nothing, under gunicorn's gevent worker."""
    (work / "bare_app.py").write_text(BARE_APP.format(answer=answer))
    port = _free_port()
    options = ["-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", "--keep-alive", "15", "bare_app:app"]
    with _gunicorn([*options, "--no-control-socket"], port, cwd=work, env=dict(os.environ)) as pid:  # noqa: TID251
        yield Server(f"http://127.0.0.1:{port}", pid)


@contextmanager
def proxy(upstream_url: str, work: Path) -> Iterator[Server]:
    """The proxy as it is deployed, with one worker."""
    port = _free_port()
    token = secrets.token_urlsafe(24)
    env = {
        **os.environ,  # noqa: TID251
        "PORT": str(port),
        "DATA_DIR": str(work / "data"),
        "UPSTREAM_URL": upstream_url,
        "MANAGEMENT_TOKEN": token,
        "ADMIN_USER": "admin",
        "ADMIN_PASSWORD": secrets.token_urlsafe(24),
        "ENCRYPTION_KEY": base64.b64encode(os.urandom(32)).decode(),
        "WEB_CONCURRENCY": "1",
        "RATE_LIMIT_PER_HOUR": "1000000000",
    }
    with _gunicorn(["-c", "gunicorn.conf.py", "wsgi:app"], port, cwd=ROOT, env=env) as pid:
        yield Server(f"http://127.0.0.1:{port}", pid, token)


@contextmanager
def _gunicorn(options: list[str], port: int, *, cwd: Path, env: dict[str, str]) -> Iterator[int]:
    """A running gunicorn; yields its worker's pid."""
    command = [sys.executable, "-m", "gunicorn", *options]
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as master:
        try:
            _wait_for(port, master)
            children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
            os.sched_setaffinity(int(children[0]), {min(os.sched_getaffinity(os.getppid()))})
            yield int(children[0])
        finally:
            master.terminate()
            master.wait(timeout=30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _exchange(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the server did not start")


def _exchange(port: int, request: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(request)
        if not sock.recv(1):
            raise ConnectionError("no answer")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _call(url: str, path: str, bearer: str, body: bytes) -> bytes:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status >= 300:
        raise RuntimeError(f"{path} answered {response.status}: {answer[:200]!r}")
    return answer


def _ask(url: str, bearer: str) -> bytes:
    return _call(url, "/v1/chat/completions", bearer, BODY)


def _issue_token(url: str, management_token: str) -> str:
    project = {"name": "benchmark", "openai_api_key": "sk-benchmark-0123456789"}
    made = json.loads(_call(url, "/manage/projects", management_token, json.dumps(project).encode()))
    wanted = {"project_id": made["id"], "duration_hours": 1}
    issued = json.loads(_call(url, "/manage/tokens", management_token, json.dumps(wanted).encode()))
    token: str = issued["token"]
    return token


def _load(server: Server, bearer: str, requests: int, concurrency: int) -> Round:
    """Send `requests` over kept connections and measure. Raises when any call fails."""
    port = int(server.url.rsplit(":", 1)[1])
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: application/json\r\nAccept: application/json\r\nUser-Agent: benchmark\r\n"
        b"Accept-Encoding: gzip, deflate\r\nContent-Length: %d\r\n\r\n%b" % (bearer.encode(), len(BODY), BODY)
    )
    cpu, start = server.cpu_s(), time.perf_counter()
    times = sorted(plain_load.times(port, request, requests, concurrency))
    took, cpu = time.perf_counter() - start, server.cpu_s() - cpu
    return Round(
        cpu_us=cpu / len(times) * 1e6,
        requests_per_s=len(times) / took,
        p50_ms=times[len(times) // 2] * 1000,
        p99_ms=times[int(len(times) * 0.99)] * 1000,
    )


if __name__ == "__main__":
    main()
