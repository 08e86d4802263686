"""What stands behind the servers that are measured."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from measure.suite.sample import RESPONSE, RESPONSE_HEADERS
from measure.suite.server import Server, free_port, started

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
NGINX_CONF = """
worker_processes 1; daemon off; pid %(work)s/nginx.pid;
events { worker_connections 4096; }
http {
    access_log off; keepalive_requests 100000000; client_body_temp_path %(work)s;
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        %(headers)s
        location / { default_type application/json; return 200 '%(response)s'; }
    }
}
"""


@contextmanager
def json_upstream(work: Path) -> Iterator[Server]:
    """nginx with a fixed response where it is installed, because that disturbs least; else the paced upstream."""
    if not NGINX:
        with paced_upstream() as upstream:
            yield upstream
        return
    server = Server(free_port())
    config = work / "nginx.conf"
    headers = " ".join(f"add_header {name} {value};" for name, value in RESPONSE_HEADERS.items())
    config.write_text(NGINX_CONF % {"work": work, "port": server.port, "headers": headers, "response": RESPONSE})
    with started([NGINX, "-c", str(config), "-e", str(work / "nginx.err")], server):
        yield server


@contextmanager
def paced_upstream() -> Iterator[Server]:
    """An upstream that streams events at a pace; see `paced_upstream`."""
    server = Server(free_port())
    with started([sys.executable, "-m", "measure.suite.paced_upstream", str(server.port)], server) as process:
        yield replace(server, pids=(process.pid,))
