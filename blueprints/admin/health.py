"""Health: what an operator looks at when something is slow, full or not there."""

from __future__ import annotations

import io
import ipaddress
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from flask import Response, current_app, jsonify, request

from accounting import ledger
from blueprints.admin import queries
from blueprints.admin.answers import page, wants_json
from blueprints.admin.display import Bar
from blueprints.admin.effective import effective
from blueprints.admin.site import bp
from control import alerts, keys
from control.errors import NotFound
from database import schema
from database.engine import is_reachable
from llmproxy import __version__
from llmproxy.api_log.lag import Lag
from llmproxy.api_log.segment import list_segments
from llmproxy.client.request_body import RequestBody
from llmproxy.errors import Cause, UpstreamError
from llmproxy.headers import origin_of
from llmproxy.telemetry.standing import standing
from llmproxy.times import iso_utc
from llmproxy.transport.connection import Timeouts
from llmproxy.transport.request import UpstreamRequest
from llmproxy.upstream import Upstream
from models import db
from services import Services

PROBE_TIMEOUTS = Timeouts(connect_s=3, first_byte_s=3, idle_s=3)
MAX_UPSTREAMS = 20
CAUSES: Mapping[Cause, str] = {
    "dns": "Its name leads nowhere: look at the base URL and the name servers.",
    "refused": "Nothing listens there: its machine refused the connection.",
    "network": "No way leads there from this network.",
    "tls": "TLS failed: look at its certificate, and at the roots that this machine trusts.",
    "timeout": "It did not answer in time.",
    "egress": "The egress proxy refused to pass it on.",
    "hung_up": "It hung up.",
    "other": "It could not be used.",
}


@bp.get("/health")
def health() -> Response:
    """The state of the parts."""
    if not wants_json():
        return _page()
    state = _state()
    lags = state.pop("readers").items()
    node = asdict(state.pop("node"))
    failures = {name: failure | {"at": iso_utc(failure["at"])} for name, failure in node.pop("failures").items()}
    return jsonify(
        node=node,
        failures=failures,
        readers={name: {"bytes": lag.bytes, "oldest": _oldest(lag)} for name, lag in lags},
        settings={one.name: one.value for one in effective(Services.of(current_app).settings)},
        **state,
    )


@bp.post("/health/upstream")
def try_upstream() -> Response:
    """Try one of the upstreams in use: a request without any key, within a few seconds."""
    url = request.form.get("url", "")
    if url not in _upstreams():
        raise NotFound("url", "upstream")
    probe = _probe(url)
    return jsonify(probe) if wants_json() else _page(probe)


def _oldest(lag: Lag) -> str | None:
    return iso_utc(lag.oldest, timespec="milliseconds") if lag.oldest else None


def _page(probe: dict[str, Any] | None = None) -> Response:
    settings, state = Services.of(current_app).settings, _state()
    disk = state["disk"]
    upstreams = _upstreams() if state["database"]["reachable"] else [settings.upstream_url]
    return page(
        "health.html",
        disk_bar=Bar(round(100 * disk["free_bytes"] / disk["total_bytes"]) if disk["total_bytes"] else 0, ""),
        upstreams=[(url, state["node"].failures.get(origin_of(url).place)) for url in upstreams],
        probe=probe,
        changed=[one for one in effective(settings) if not one.is_default],
        defaults=[one for one in effective(settings) if one.is_default],
        causes=CAUSES,
        ships=bool(settings.logging_url),
        log_cap=settings.log_max_total_bytes,
        hides_callers=state["database"]["reachable"] and _hides_callers(),
        **state,
    )


def _hides_callers() -> bool:
    """Whether rules go by addresses, and all callers may have that of a proxy that nobody said to trust."""
    services = Services.of(current_app)
    peer = services.client_address(request.environ)
    is_private = peer is not None and ipaddress.ip_address(peer).is_private
    return is_private and not services.settings.trusted_proxies and queries.has_rules_of_addresses()


def _state() -> dict[str, Any]:
    """What there is to tell of the node, its database, disk and call log; of that, what this worker lacks."""
    parts = Services.of(current_app)
    parts.tell_gauges()
    segments = list_segments(parts.settings.log_path)
    started = time.perf_counter()
    answers = is_reachable(parts.engine)
    answer_ms = (time.perf_counter() - started) * 1000
    disk = shutil.disk_usage(parts.settings.data_dir)
    return {
        "version": __version__,
        "database": {"kind": _kind(parts.engine.dialect), "reachable": answers, "answer_ms": answer_ms},
        "node": standing(),
        "keys": asdict(keys.seals(db.session, parts.keyring)) if answers else None,
        "alerts": {"waiting": alerts.count_waiting(parts.engine) if answers else None},
        "ring": parts.keyring.names,
        "schema": {"current": schema.version(parts.engine) if answers else None, "head": schema.HEAD},
        "disk": {"free_bytes": disk.free, "total_bytes": disk.total},
        "log": {
            "segments": len(segments),
            "bytes": sum(segment.size for segment in segments),
            "pending": parts.log.pending,
            "lost": parts.log.lost,
        },
        "readers": ledger.lags(parts.settings),
    }


def _kind(dialect: Any) -> str:
    kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(dialect.name, dialect.name)
    number = ".".join(map(str, getattr(dialect, "server_version_info", None) or ()))
    return f"{kind} {number}".strip()


def _upstreams() -> list[str]:
    """Base URLs in use, the setting's first."""
    others = queries.upstreams_of_projects(MAX_UPSTREAMS)
    return list(dict.fromkeys([Services.of(current_app).settings.upstream_url, *others]))


def _probe(url: str) -> dict[str, Any]:
    """What came of trying an upstream."""
    origin = origin_of(url)
    headers = [("Host", origin.host_header), ("Accept", "application/json"), ("User-Agent", "llm-proxy health check")]
    body = RequestBody(io.BytesIO(), length=0, max_bytes=0)
    request = UpstreamRequest("GET", origin, "/v1/models", headers, body, on_connection=lambda _: None)
    upstream = Upstream(PROBE_TIMEOUTS, Services.of(current_app).settings.egress)
    started = time.perf_counter()
    try:
        response = upstream.open(request)
        took_ms = (time.perf_counter() - started) * 1000
        response.raw.close()
    except UpstreamError as exc:
        return {
            "url": url,
            "reachable": False,
            "cause": exc.cause,
            "message": f"{CAUSES[exc.cause]} {_sentence(exc.detail)}".rstrip(),
        }
    finally:
        upstream.close()
    return {"url": url, "reachable": True, "message": f"{_meaning(response.status_code)} It took {took_ms:.0f} ms."}


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:].rstrip('.')}." if words else ""


def _meaning(status: int) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"It answers, and asks for a key as it should ({status})."
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"It answers, but with an error of its own ({status})."
    return f"It answers ({status})."
