"""
A proxy that has been in use for a month, made up: projects, tokens in every state, the audit trail, the call log and
the sums of usage. For measuring the admin pages and for looking at them.
"""

from __future__ import annotations

import hashlib
import math
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask

from accounting.rollup import Rollup, UsageSums, node_id
from control import projects
from control.audit import Actor
from llmproxy.api_log.record import CallRecord
from llmproxy.limits.charge import FREE, charge
from llmproxy.limits.prices import Prices, read_sheet
from measure.price_sheet import FOLDER
from models import AuditEntry, Project, Token, db
from services import Services

PROJECTS = (
    ("Support assistant", None),
    ("Data science notebooks", None),
    ("Internal search", "https://models.internal.example/openai"),
    ("Field app", None),
    ("Nightly evaluations", None),
    ("Marketing copy", None),
)
LABELS = (
    "api gateway",
    "batch worker",
    "ci runner",
    "maria@example.com",
    "staging",
    "notebook server",
    "mobile beta",
)
HOUSE_MODEL = "house-llama-70b"  # which no sheet knows
MODELS = ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06", "o4-mini-2025-04-16", "text-embedding-3-small", HOUSE_MODEL)
WEIGHTS = (60, 22, 8, 10, 1)
ENDPOINTS = {"text-embedding-3-small": "/v1/embeddings", "o4-mini-2025-04-16": "/v1/responses"}
DAYS = 30
SEGMENT_BYTES = 64 << 20
ROLLUP_BATCH = 20_000


def seed(app: Flask, *, tokens: int, records: int, now: datetime) -> None:
    """Fill an empty, migrated proxy. The same numbers give the same contents but for random ids."""
    dice = random.Random(7)
    with app.app_context():
        owners = _projects(app)
        rows = list(_tokens(dice, owners, tokens, now))
        settings = Services.of(app).settings
        _write_log(settings.log_path, _records(dice, rows, records, now))
        db.session.execute(Token.__table__.insert(), rows)
        db.session.execute(AuditEntry.__table__.insert(), list(_audit(dice, rows, now)))
        db.session.commit()
        sums = Rollup(settings.log_path, UsageSums(db.engine, node_id(settings.data_dir)))
        while sums.step(max_records=ROLLUP_BATCH):
            pass
        sums.close()


def _projects(app: Flask) -> list[Project]:
    keyring, actor = Services.of(app).keyring, Actor("admin", "192.0.2.10")
    made = [
        projects.create(
            db.session,
            keyring,
            actor,
            name=name,
            openai_api_key=f"sk-made-up-{number}-{hashlib.sha256(name.encode()).hexdigest()[:8]}",
            base_url=base_url,
        )
        for number, (name, base_url) in enumerate(PROJECTS)
    ]
    projects.change(db.session, keyring, actor, made[-1].id, is_active=False)
    return made


def _tokens(dice: random.Random, owners: list[Project], count: int, now: datetime) -> Iterator[dict[str, Any]]:
    for number in range(count):
        created = now - timedelta(days=dice.uniform(0.1, DAYS))
        lifetime = timedelta(days=dice.choice((1, 7, 30, 30, 90, 90)))
        limit = dice.choice((None, None, 60, 500))
        yield {
            "token": hashlib.sha256(str(number).encode()).hexdigest(),
            "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "project_id": owners[min(int(dice.expovariate(0.6)), len(owners) - 1)].id,
            "label": None if dice.random() < 0.15 else f"{dice.choice(LABELS)} {number + 1}",
            "expires_at": created + lifetime,
            "is_active": dice.random() > 0.1,
            "rate_limit": limit,
            "request_count": 0,
            "window_started_at": None,
            "created_at": created,
            "last_used_at": None,
        }


def _audit(dice: random.Random, tokens: list[dict[str, Any]], now: datetime) -> Iterator[dict[str, Any]]:
    for token in sorted(tokens, key=lambda token: token["created_at"]):
        facts = {"label": token["label"], "rate_limit": token["rate_limit"], "is_active": True}
        yield {
            "at": token["created_at"],
            "actor": dice.choice(("admin", "management")),
            "address": "192.0.2.10",
            "action": "token.issue",
            "target_type": "token",
            "target_id": token["id"],
            "target_name": token["label"],
            "before": None,
            "after": facts,
        }
    first = tokens[0]
    yield {
        "at": now - timedelta(minutes=12),
        "actor": "admin",
        "address": "192.0.2.10",
        "action": "token.change",
        "target_type": "token",
        "target_id": first["id"],
        "target_name": first["label"],
        "before": {"rate_limit": 500, "label": "old name"},
        "after": {"rate_limit": 60, "label": first["label"]},
    }


def _records(dice: random.Random, tokens: list[dict[str, Any]], count: int, now: datetime) -> Iterator[bytes]:
    """In the order of time, busier by day than at night and busier lately. The tokens are told of their use."""
    busy = sorted(tokens, key=lambda token: token["token"])[: max(5, len(tokens) // 3)]
    moments = sorted(_moment(dice, now) for _ in range(count))
    prices = Prices(read_sheet((FOLDER / "openai.json").read_bytes()))
    for moment in moments:
        token = busy[min(int(dice.expovariate(4 / len(busy))), len(busy) - 1)]
        record = _record(dice, token, moment, prices)
        if record.outcome != "refused":
            _use(dice, token, datetime.fromtimestamp(moment, UTC), now)
        yield record.to_line()


def _use(dice: random.Random, token: dict[str, Any], at: datetime, now: datetime) -> None:
    token["last_used_at"] = at
    if token["window_started_at"] is None and at > now - timedelta(minutes=58):
        token["window_started_at"] = at
        token["request_count"] = dice.randint(1, token["rate_limit"] or 1000)


def _moment(dice: random.Random, now: datetime) -> float:
    while True:
        back_days = min(dice.expovariate(1 / 12), DAYS * 0.999)
        moment = now - timedelta(days=back_days, seconds=dice.uniform(0, 60))
        daylight = 0.35 + 0.65 * max(0.0, math.sin((moment.hour + moment.minute / 60 - 5) / 24 * 2 * math.pi))
        if dice.random() < daylight:
            return moment.timestamp()


def _record(dice: random.Random, token: dict[str, Any], moment: float, prices: Prices) -> CallRecord:
    model = dice.choices(MODELS, WEIGHTS)[0]
    stream = model != "text-embedding-3-small" and dice.random() < 0.6
    ttft_ms = dice.lognormvariate(5.9, 0.45)
    duration_ms = ttft_ms + (dice.lognormvariate(7.4, 0.7) if stream else 0)
    common: dict[str, Any] = {
        "timestamp": moment,
        "request_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        "token_id": token["id"],
        "project_id": token["project_id"],
        "endpoint": ENDPOINTS.get(model, "/v1/chat/completions"),
        "method": "POST",
        "requested_model": model,
        "client_address": f"192.0.2.{dice.randint(1, 250)}",
        "bytes_in": dice.randint(200, 9000),
    }
    fate = dice.random()
    if fate < 0.035:
        status, code, kind = dice.choices(
            (
                (429, "rate_limit_exceeded", "requests"),
                (401, "token_expired", "invalid_request_error"),
                (401, "invalid_api_key", "invalid_request_error"),
                (403, "project_inactive", "permission_error"),
            ),
            (6, 3, 2, 1),
        )[0]
        unknown: dict[str, Any] = {"token_id": None, "project_id": None} if code == "invalid_api_key" else {}
        return _unanswered(common | unknown, status, "refused", {"code": code, "type": kind}, dice.uniform(0.4, 2))
    if fate < 0.042:
        error: dict[str, str | None] = {"code": "upstream_timeout", "type": "server_error"}
        return _unanswered(common, 504, "upstream_timeout", error, 30_000)
    if fate < 0.05:
        return _unanswered(common, 499, "client_closed", None, duration_ms / 2)
    failed = fate < 0.06
    prompt, completion = int(dice.lognormvariate(6.2, 0.8)), int(dice.lognormvariate(5.2, 0.7))
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    created = {"model": model, "created": int(moment)}
    endpoint = common["endpoint"]
    priced = charge(prices, model=model, project="", endpoint=endpoint, told=usage, tier=None)
    charged = FREE if failed else priced
    return CallRecord(
        **common,
        status_code=500 if failed else 200,
        duration_ms=round(duration_ms, 3),
        metadata=None if failed else usage | created,
        outcome="complete",
        stream=stream,
        ttft_ms=round(ttft_ms, 3),
        upstream_status=500 if failed else 200,
        upstream_request_id=f"req_{dice.getrandbits(64):016x}",
        bytes_out=dice.randint(400, 20_000),
        usage_source="absent" if failed else "reported",
        error={"code": None, "type": "server_error"} if failed else None,
        cost=charged.microdollars,
        cost_source=charged.source,
        price_date=prices.date if charged.source == "reported" else None,
    )


def _unanswered(
    common: dict[str, Any], status: int, outcome: Any, error: dict[str, str | None] | None, duration_ms: float
) -> CallRecord:
    return CallRecord(
        **common,
        status_code=status,
        duration_ms=round(duration_ms, 3),
        metadata=None,
        outcome=outcome,
        stream=False,
        ttft_ms=None,
        upstream_status=None,
        upstream_request_id=None,
        bytes_out=0,
        usage_source="absent",
        error=error,
        cost=0,
        cost_source="none",
    )


def _write_log(path: Path, lines: Iterator[bytes]) -> None:
    """The log in segments, named as the writer's rotation names them."""
    written, pieces = 0, []
    for line in lines:
        pieces.append(line)
        written += len(line)
        if written >= SEGMENT_BYTES:
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            path.with_name(f"{path.stem}.{stamp}{path.suffix}").write_bytes(b"".join(pieces))
            written, pieces = 0, []
    path.write_bytes(b"".join(pieces))
