"""`/healthz`, `/readyz` and `/metrics`: for load balancers and Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, jsonify, request

from blueprints import sign_in
from blueprints.errors import error_response
from blueprints.ops_listener import IS_OPS
from control import keys
from database.engine import is_reachable
from llmproxy.telemetry import metrics
from llmproxy.urls import is_loopback
from models import db
from services import Services

bp = Blueprint("health", __name__)

# What proxies add, one or the other of them.
_OF_PROXIES = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via")


@bp.get("/healthz")
def healthz() -> Response:
    """Alive: the process answers."""
    return jsonify(status="ok")


@bp.get("/readyz")
def readyz() -> Response:
    """Ready for traffic: the database answers, its keys open, and this process is not about to stop."""
    if Services.of(current_app).draining.is_set():
        return error_response(503, "This process is shutting down.", code="proxy_draining")
    if not is_reachable(Services.of(current_app).engine):
        return error_response(503, "The database does not answer.", code="auth_unavailable")
    seals = keys.seals(db.session, Services.of(current_app).keyring)
    if seals.keys and seals.shut == seals.keys:
        # A node with another encryption key must not take the place of one that has the right one.
        return error_response(503, "ENCRYPTION_KEY opens no stored upstream key.", code="auth_unavailable")
    if seals.shut:
        return jsonify(status="degraded", unreadable_keys=seals.shut)
    return jsonify(status="ready")


@bp.get("/metrics")
def exposition() -> Response:
    """Metrics in Prometheus' text format; behind METRICS_TOKEN, or for who asks from this machine or on OPS_BIND."""
    parts = Services.of(current_app)
    if not parts.settings.metrics_token and not (request.environ.get(IS_OPS) or _is_near()):
        return error_response(403, "Set METRICS_TOKEN to have the metrics asked for from other machines.")
    if parts.settings.metrics_token and sign_in.who(sign_in.metrics) is None:
        response = error_response(401, "Send METRICS_TOKEN in the header `Authorization: Bearer <token>`.")
        response.headers["WWW-Authenticate"] = sign_in.metrics.authenticate_header()
        return response
    return Response(parts.exposition.text(parts.tell_gauges), content_type=metrics.CONTENT_TYPE)


def _is_near() -> bool:
    """Whether it comes from this machine, and not by a proxy on it that serves others."""
    is_passed_on = any(name in request.headers for name in _OF_PROXIES)
    return is_loopback(request.remote_addr or "") and not is_passed_on
