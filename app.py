"""Builds the application: services from settings, blueprints on routes. No route and no rule stands here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

from flask import Flask, Request
from flask import request as current_request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

import commands
from blueprints import (
    admin,
    errors,
    field_sizes,
    health,
    holder,
    management,
    openapi,
    prices,
    proxy,
    usage,
    websocket,
    welcome,
    wire,
)
from blueprints.cross_origin import CrossOrigin
from blueprints.ops_listener import OpsListener
from blueprints.root_path import BelowRootPath
from config import Settings
from database.claims import open_token_store
from database.engine import Engine, engine_options, set_up
from llmproxy.admission import Admission, Looks
from llmproxy.api_log.writer import LogWriter
from llmproxy.client.address import ClientAddress
from llmproxy.client.held_bodies import HeldBodies
from llmproxy.client.upload_pace import UploadPace
from llmproxy.fairness import Fairness
from llmproxy.gate import Gate
from llmproxy.keyring import KeyRing
from llmproxy.limits.prices import Prices, read_sheet
from llmproxy.live_calls import LiveCalls
from llmproxy.transport.connection import Timeouts
from llmproxy.upstream import Upstream
from models import db
from services import EXTENSION, Services

SHEET = Path(__file__).with_name("prices") / "openai.json"


_NOWHERE = "/nowhere"


class _AdminSessions(SecureCookieSessionInterface):
    """Sessions for the admin's pages alone: a proxied call pays nothing for them."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        return super().open_session(app, request) if request.path.startswith("/admin") else None

    def get_cookie_secure(self, app: Flask) -> bool:
        """Over TLS the cookie stays there; over plain HTTP browsers would drop one that must."""
        return current_request.is_secure


class _App(Flask):
    """Flask, beside which calls that are passed on as they are go straight through."""

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if proxy.serves(environ["PATH_INFO"]):
            is_websocket = "HTTP_UPGRADE" in environ and websocket.serves(environ)
            forward = websocket.forward if is_websocket else proxy.forward
            return forward(self.extensions[EXTENSION], environ, start_response)
        if field_sizes.too_long(environ):
            return field_sizes.refuse(start_response)
        if "//" in environ["PATH_INFO"]:
            # Flask would lead to the path with one slash, past whatever a front server's rules say of that.
            environ["PATH_INFO"] = _NOWHERE
        return super().wsgi_app(environ, start_response)


def create_app(settings: Settings) -> Flask:
    """
    The WSGI application.

    Args:
        settings: Complete, as `config.load` returns them. The database must be at the newest schema
            (`database.schema.migrate_to_head`).
    """
    # Styles and scripts are served under /admin, with its headers; nothing else here is static.
    app = _App(__name__, static_folder=None)
    app.session_interface = _AdminSessions()
    app.config.update(_flask_config(settings))
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(
        settings.database_url,
        pool_size=settings.database_pool_size - _claim_connections(settings),
        prepare=settings.database_prepare,
    )
    db.init_app(app)
    with app.app_context():
        app.extensions[EXTENSION] = _services(settings, set_up(db.engine))
    errors.register(app)
    app.after_request(wire.without_host)
    for blueprint in (
        proxy.bp,
        management.bp,
        usage.bp,
        prices.bp,
        openapi.bp,
        health.bp,
        welcome.bp,
        holder.bp,
        admin.bp,
    ):
        app.register_blueprint(blueprint)
    commands.register(app)
    if settings.cors_origins:
        app.wsgi_app = CrossOrigin(app.wsgi_app, settings.cors_origins)  # type: ignore[method-assign]
    if settings.ops_bind:
        app.wsgi_app = OpsListener(app.wsgi_app, Services.of(app).ops_ports)  # type: ignore[method-assign]
    if settings.root_path:
        app.wsgi_app = BelowRootPath(app.wsgi_app, settings.root_path)  # type: ignore[method-assign]
    return app


def _flask_config(settings: Settings) -> dict[str, Any]:
    return {
        # Derived, so that all workers agree on it and there is one secret less to set.
        "SECRET_KEY": hashlib.sha256(b"llm-proxy session key" + settings.encryption_keys[0]).digest(),
        "SESSION_COOKIE_SAMESITE": "Strict",
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_PATH": f"{settings.root_path}/admin",
    }


def _claim_connections(settings: Settings) -> int:
    return settings.database_pool_size // 2


def _services(settings: Settings, engine: Engine) -> Services:
    keyring = KeyRing(settings.encryption_keys)
    store = open_token_store(
        settings.database_url,
        default_limit=settings.rate_limit_per_hour,
        pool_size=_claim_connections(settings),
        prepare=settings.database_prepare,
    )
    timeouts = Timeouts(
        connect_s=settings.connect_timeout_s,
        first_byte_s=settings.first_byte_timeout_s,
        idle_s=settings.idle_timeout_s,
    )
    live = LiveCalls()
    fairness = Fairness(live, max_sessions=settings.max_websockets_per_token)
    prices, rooms, looks = _prices(settings), HeldBodies(), Looks()
    gate = Gate(
        store,
        looks=looks,
        prices=prices,
        open_spool=lambda: _open_spool(settings),
        max_spooled_bytes=settings.ruled_body_bytes,
        rooms=rooms,
        contact=settings.contact,
    )
    return Services(
        settings=settings,
        engine=engine,
        admission=Admission(store, keyring, settings.upstream_allowed_hosts, fairness, looks),
        store=store,
        gate=gate,
        live=live,
        fairness=fairness,
        keyring=keyring,
        upload_pace=UploadPace(settings.min_body_rate, grace_s=settings.idle_timeout_s),
        held_bodies=rooms,
        upstream=Upstream(timeouts, settings.egress),
        log=LogWriter(
            settings.log_path,
            max_file_bytes=settings.log_max_file_bytes,
            max_total_bytes=settings.log_max_total_bytes,
            file_mode=settings.log_file_mode,
        ),
        prices=prices,
        client_address=ClientAddress(settings.trusted_proxies),
    )


def _open_spool(settings: Settings) -> BinaryIO:
    directory = settings.data_dir / "tmp"
    directory.mkdir(mode=0o700, exist_ok=True)
    return cast(BinaryIO, TemporaryFile(dir=directory))


def _prices(settings: Settings) -> Prices | None:
    return None if settings.prices is None else Prices(read_sheet(SHEET.read_bytes()), settings.prices)
