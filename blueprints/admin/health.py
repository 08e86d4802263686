"""Health: what an operator looks at when something is slow, full or not there."""

from __future__ import annotations

import io
import logging
import shutil
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Response, current_app, jsonify, request

from accounting import ledger
from blueprints.admin import queries
from blueprints.admin.answers import page, wants_json
from blueprints.admin.display import Bar
from blueprints.admin.site import bp
from control.errors import NotFound
from database import schema
from database.engine import is_reachable
from llmproxy import __version__
from llmproxy.api_log.lag import Lag
from llmproxy.api_log.segment import list_segments
from llmproxy.client.request_body import RequestBody
from llmproxy.errors import ProxyError
from llmproxy.headers import origin_of
from llmproxy.times import iso_utc
from llmproxy.transport.connection import Timeouts
from llmproxy.transport.request import UpstreamRequest
from llmproxy.upstream import Upstream
from services import Services

log = logging.getLogger(__name__)

PROBE_TIMEOUTS = Timeouts(connect_s=3, first_byte_s=3, idle_s=3)
MAX_UPSTREAMS = 20


@dataclass(frozen=True, slots=True)
class Database:
    """The database as it answers now; `version` None where it does not."""

    kind: str
    is_reachable: bool
    answer_ms: float
    version: str | None
    head: str

    @property
    def is_current(self) -> bool:
        """Whether its schema is the one that this program was written for."""
        return self.version == self.head


@dataclass(frozen=True, slots=True)
class Log:
    """The call log: what lies on the disk, and what this worker process could not write there."""

    segments: int
    size_bytes: int
    pending: int
    lost: int
    readers: dict[str, Lag]


@dataclass(frozen=True, slots=True)
class Probe:
    """What came of trying an upstream."""

    url: str
    is_reachable: bool
    words: str


@bp.get("/health")
def health() -> Response:
    """The state of the parts."""
    database, disk, calls = _database(), _disk(), _log()
    if wants_json():
        return jsonify(
            version=__version__,
            database={"kind": database.kind, "reachable": database.is_reachable, "answer_ms": database.answer_ms},
            schema={"current": database.version, "head": database.head},
            disk={"free_bytes": disk.free, "total_bytes": disk.total},
            log={"segments": calls.segments, "bytes": calls.size_bytes, "pending": calls.pending, "lost": calls.lost},
            readers={name: {"bytes": lag.bytes, "oldest": _oldest(lag)} for name, lag in calls.readers.items()},
        )
    return _page(database, disk, calls)


@bp.post("/health/upstream")
def try_upstream() -> Response:
    """Try one of the upstreams in use: a request without any key, within a few seconds."""
    url = request.form.get("url", "")
    if url not in _upstreams():
        raise NotFound("url", "upstream")
    probe = _probe(url)
    if wants_json():
        return jsonify(url=probe.url, reachable=probe.is_reachable, message=probe.words)
    return _page(_database(), _disk(), _log(), probe=probe)


def _oldest(lag: Lag) -> str | None:
    return iso_utc(lag.oldest, timespec="milliseconds") if lag.oldest else None


def _page(database: Database, disk: Any, calls: Log, *, probe: Probe | None = None) -> Response:
    settings = Services.of(current_app).settings
    return page(
        "health.html",
        version=__version__,
        database=database,
        disk=disk,
        disk_bar=Bar(round(100 * disk.free / disk.total) if disk.total else 0, ""),
        log=calls,
        upstreams=_upstreams() if database.is_reachable else [settings.upstream_url],
        probe=probe,
        ships=bool(settings.logging_url),
        log_cap=settings.log_max_total_bytes,
    )


def _database() -> Database:
    started = time.perf_counter()
    engine = Services.of(current_app).engine
    answers = is_reachable(engine)
    answer_ms = (time.perf_counter() - started) * 1000
    version = None
    if answers:
        version = schema.version(engine)
    kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(engine.dialect.name, engine.dialect.name)
    number = ".".join(map(str, getattr(engine.dialect, "server_version_info", None) or ()))
    return Database(f"{kind} {number}".strip(), answers, answer_ms, version, schema.HEAD)


def _disk() -> Any:
    return shutil.disk_usage(Services.of(current_app).settings.data_dir)


def _log() -> Log:
    parts = Services.of(current_app)
    path = parts.settings.log_path
    segments = list_segments(path)
    return Log(
        segments=len(segments),
        size_bytes=sum(segment.size for segment in segments),
        pending=parts.log.pending,
        lost=parts.log.lost,
        readers=ledger.lags(parts.settings),
    )


def _upstreams() -> list[str]:
    """Base URLs in use, the setting's first."""
    others = queries.upstreams_of_projects(MAX_UPSTREAMS)
    return list(dict.fromkeys([Services.of(current_app).settings.upstream_url, *others]))


def _probe(url: str) -> Probe:
    origin = origin_of(url)
    headers = [("Host", origin.host_header), ("Accept", "application/json"), ("User-Agent", "llm-proxy health check")]
    body = RequestBody(io.BytesIO(), length=0, max_bytes=0)
    request = UpstreamRequest("GET", origin, "/v1/models", headers, body, on_connection=lambda _: None)
    upstream = Upstream(PROBE_TIMEOUTS)
    started = time.perf_counter()
    try:
        response = upstream.open(request)
        took_ms = (time.perf_counter() - started) * 1000
        response.raw.close()
    except ProxyError as exc:
        return Probe(url, False, exc.message)
    finally:
        upstream.close()
    return Probe(url, True, f"{_meaning(response.status_code)} It took {took_ms:.0f} ms.")


def _meaning(status: int) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"It answers, and asks for a key as it should ({status})."
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"It answers, but with an error of its own ({status})."
    return f"It answers ({status})."
